"""Embedding of patches of an image or map, overlapping or not, and merging of a map's; for any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.norm import LayerNorm2d
from backbones.layers.pointwise import Linear
from backbones.ops.sizes import is_symbolic


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """`(B, C, H, W)` with zeros below and right, so that `multiple` divides both sides."""
    pad_h, pad_w = -x.shape[2] % multiple, -x.shape[3] % multiple
    # A symbolic padding is always applied, so that an exported program holds for every size.
    return F.pad(x, (0, pad_w, 0, pad_h)) if is_symbolic(pad_h, pad_w) or pad_h or pad_w else x


@register_notrace_module
class PatchEmbed(nn.Module):
    """Embed every patch of an image by a convolution whose kernel is its stride (ViT, arXiv 2010.11929, equation 1).

    Images that the patch does not divide are zero-padded at the right and at the bottom.

    Args:
        in_chans: Image channels.
        dim: Channels C.
        patch_size: Side of a patch, in pixels.
        norm_eps: Epsilon of a LayerNorm after the convolution; None for no norm.

    Maps `(B, in_chans, H, W)` to `(B, C, ceil(H / patch_size), ceil(W / patch_size))`.
    """

    def __init__(
        self, in_chans: int, dim: int, patch_size: int, norm_eps: float | None = None, device=None, dtype=None
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.patch_size = patch_size
        self.conv1 = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size, **dd)
        self.norm = nn.Identity() if norm_eps is None else LayerNorm2d(dim, eps=norm_eps, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv1(pad_to_multiple(x, self.patch_size)))


@register_notrace_module
class PatchMerging(nn.Module):
    """The four positions of every 2 x 2 cell concatenated, LayerNorm, linear layer to the next width.

    Sides that are odd are padded by one zero row or column. (Swin, arXiv 2103.14030, section 3.1.)

    Args:
        in_dim: Channels C of the map.
        dim: Channels D of the result.
        norm_last: LayerNorm after the linear layer (Swin V2) instead of before it (Swin).

    Maps `(B, C, H, W)` to `(B, D, ceil(H / 2), ceil(W / 2))`.
    """

    def __init__(self, in_dim: int, dim: int, norm_last: bool = False, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm_last = norm_last
        if not norm_last:
            self.norm = nn.LayerNorm(4 * in_dim, **dd)
        self.reduction = Linear(4 * in_dim, dim, bias=False, **dd)
        if norm_last:
            self.norm = nn.LayerNorm(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _cells(x)
        x = self.norm(self.reduction(x)) if self.norm_last else self.reduction(self.norm(x))
        return x.permute(0, 3, 1, 2)


def _cells(x: torch.Tensor) -> torch.Tensor:
    """`(B, C, H, W)` to `(B, ceil(H / 2), ceil(W / 2), 4C)`: left column, then right; in both the upper row first."""
    b, c, height, width = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    if is_symbolic(height, width):
        # Whether a side is odd must not show in a shape: the graph would hold for such sides alone.
        x = F.pad(x, (0, 1, 0, 1))
        x = x.index_select(2, torch.arange(2 * rows, device=x.device))
        x = x.index_select(3, torch.arange(2 * columns, device=x.device))
    else:
        x = pad_to_multiple(x, 2)
    x = x.permute(0, 2, 3, 1).reshape(b, rows, 2, columns, 2, c)
    return x.permute(0, 1, 3, 4, 2, 5).reshape(b, rows, columns, 4 * c)


@register_notrace_module
class OverlappingPatchEmbed(nn.Module):
    """Convolution that is wider than its stride, then LayerNorm (PVT v2, arXiv 2106.13797, section 3.1).

    Args:
        in_dim: Channels C.
        dim: Channels D of the result.
        kernel_size: Side of the kernel, odd.
        stride: S.

    Maps `(B, C, H, W)` to `(B, D, ceil(H / S), ceil(W / S))`.
    """

    def __init__(self, in_dim: int, dim: int, kernel_size: int, stride: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(in_dim, dim, kernel_size, stride=stride, padding=kernel_size // 2, **dd)
        self.norm = LayerNorm2d(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


@register_notrace_module
class NormDownsample(nn.Module):
    """LayerNorm, then 2x2 convolution of stride 2; `(B, C, H, W)` to `(B, D, ceil(H / 2), ceil(W / 2))`.

    Maps of odd sides are zero-padded below and right.
    """

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm = LayerNorm2d(in_dim, **dd)
        self.conv = nn.Conv2d(in_dim, dim, 2, stride=2, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        # What is beyond a whole cell is not seen, so a symbolic side, even or odd, may always get one more.
        return self.conv(F.pad(x, (0, 1, 0, 1)) if is_symbolic(*x.shape[2:]) else pad_to_multiple(x, 2))
