"""Non-overlapping patches: the stem and the downsampling of Swin and its kin, for images of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.norm import LayerNorm2d
from backbones.layers.pointwise import Linear


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Zero-pad `(B, C, H, W)` below and right, so that `multiple` divides H and W."""
    below, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    captured = isinstance(below, torch.SymInt) or isinstance(right, torch.SymInt)
    return F.pad(x, (0, right, 0, below)) if captured or below or right else x


@register_notrace_module
class PatchEmbedding(nn.Module):
    """Convolution whose stride is its kernel, then LayerNorm (Swin, arXiv 2103.14030, section 3.1).

    Args:
        in_chans: Image channels.
        dim: Channels C.
        patch_size: Side of a patch, pixels. Images are zero-padded below and right to a multiple of it.

    Maps `(B, in_chans, H, W)` to `(B, C, ceil(H / patch_size), ceil(W / patch_size))`.
    """

    def __init__(self, in_chans: int, dim: int, patch_size: int = 4, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size, **dd)
        self.norm = LayerNorm2d(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(pad_to_multiple(x, self.conv.stride[0])))


@register_notrace_module
class PatchMerging(nn.Module):
    """The four positions of every 2 x 2 cell concatenated, and reduced to twice the channels by a linear layer.

    Sides that are odd are padded by one zero row or column. (Swin, arXiv 2103.14030, section 3.1.)

    Args:
        dim: Channels C.
        norm_last: LayerNorm after the linear layer (Swin V2) instead of before it (Swin).

    Maps `(B, C, H, W)` to `(B, 2C, ceil(H / 2), ceil(W / 2))`.
    """

    def __init__(self, dim: int, norm_last: bool = False, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm_last = norm_last
        self.reduction = Linear(4 * dim, 2 * dim, bias=False, **dd)
        self.norm = nn.LayerNorm(2 * dim if norm_last else 4 * dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _cells(x)
        x = self.norm(self.reduction(x)) if self.norm_last else self.reduction(self.norm(x))
        return x.permute(0, 3, 1, 2)


def _cells(x: torch.Tensor) -> torch.Tensor:
    """`(B, C, H, W)` to `(B, ceil(H / 2), ceil(W / 2), 4C)`: left column, then right; in both the upper row first."""
    b, c, height, width = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    if isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt):
        # Whether a side is odd must not show in a shape: the graph would hold for such sides alone.
        x = F.pad(x, (0, 1, 0, 1))
        x = x.index_select(2, torch.arange(2 * rows, device=x.device))
        x = x.index_select(3, torch.arange(2 * columns, device=x.device))
    else:
        x = pad_to_multiple(x, 2)
    x = x.permute(0, 2, 3, 1).reshape(b, rows, 2, columns, 2, c)
    return x.permute(0, 1, 3, 4, 2, 5).reshape(b, rows, columns, 4 * c)
