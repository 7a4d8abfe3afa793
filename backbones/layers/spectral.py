"""Token mixing in the Fourier domain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.ops.sizes import is_symbolic, static_size


@register_notrace_module
class SpectralGating(nn.Module):
    """Product of a map's spectrum with a learned complex filter (GFNet, arXiv 2107.00645; SpectFormer, 2304.06446).

    That is a circular convolution of every channel by a kernel as large as the map. There is no bias, activation or
    projection. Transforms run in float32 at least, and their result keeps the type of the input.

    Args:
        dim: Channels C.
        map_size: `(H, W)` of the maps that the filter is stored for. For others it is resized, bicubic, corner to
            corner, real and imaginary part alike.

    Maps `(B, H, W, C)` to the same shape; the filter is `(H, W // 2 + 1, C, 2)`, real part first.
    """

    def __init__(self, dim: int, map_size: tuple[int, int], device=None, dtype=None) -> None:
        super().__init__()
        self.map_size = tuple(map_size)
        self.complex_weight = nn.Parameter(
            torch.empty(map_size[0], map_size[1] // 2 + 1, dim, 2, device=device, dtype=dtype)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.complex_weight, std=0.02)

    def set_map_size(self, map_size: tuple[int, int]) -> None:
        """Resize the stored filter to maps of another size."""
        old, self.map_size = self.complex_weight, tuple(map_size)
        self.complex_weight = nn.Parameter(resized_filter(old.detach(), *map_size), requires_grad=old.requires_grad)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = static_size(x.shape[1]), static_size(x.shape[2])
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight = torch.view_as_complex(resized_filter(self.complex_weight.to(dtype), height, width).contiguous())
        spectrum = torch.fft.rfft2(x.to(dtype), dim=(1, 2), norm="ortho") * weight
        return torch.fft.irfft2(spectrum, s=(height, width), dim=(1, 2), norm="ortho").to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.complex_weight.shape[2]}, map_size={self.map_size}"


def resized_filter(weight: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A filter `(rows, columns, C, 2)` for maps of another size, `(height, width // 2 + 1, C, 2)`."""
    size = (height, width // 2 + 1)
    # A graph for many sizes must hold at the filter's own size too, so it resizes there as well, to the same filter.
    if not is_symbolic(*size) and size == tuple(weight.shape[:2]):
        return weight
    image = weight.flatten(2).permute(2, 0, 1)[None].to(torch.promote_types(weight.dtype, torch.float32))
    image = F.interpolate(image, size=size, mode="bicubic", align_corners=True)[0]
    return image.permute(1, 2, 0).unflatten(2, (-1, 2)).to(weight.dtype)
