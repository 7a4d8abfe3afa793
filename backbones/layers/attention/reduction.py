"""Attention of every position to the positions of a reduced map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.conv.basic import ConvNorm, ResidualDepthwiseConv
from backbones.layers.pointwise import Linear
from backbones.ops.attention import biased_attention
from backbones.ops.cache import shape_cache
from backbones.ops.sizes import is_symbolic, larger, pad_map, static_size


@register_notrace_module
class SpatialReductionAttention(nn.Module):
    """Attention to a map that a strided convolution reduces (SRA; PVT, arXiv 2102.12122, section 3.3).

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        reduction: Kernel and stride R of the convolution, with LayerNorm, that keys and values are made from; 1 for
            none.
        qkv_bias: Bias of the input projections.

    Maps `(B, H, W, C)` to `(B, H, W, C)`. Rows and columns that R leaves over are not attended to; smaller maps are
    zero-padded to it.

    Raises:
        ValueError: Heads that do not divide the channels.
    """

    def __init__(
        self, dim: int, num_heads: int, reduction: int = 2, qkv_bias: bool = True, device=None, dtype=None
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.reduction = reduction
        self.q = Linear(dim, dim, bias=qkv_bias, **dd)
        self.sr: nn.Module | None = None
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, stride=reduction, **dd)
            self.norm = nn.LayerNorm(dim, **dd)
        self.kv = Linear(dim, 2 * dim, bias=qkv_bias, **dd)
        self.proj = Linear(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x).flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = (
            self.kv(self.reduced(x))
            .flatten(1, 2)
            .unflatten(-1, (2, self.num_heads, -1))
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        out = biased_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.proj(out.unflatten(1, x.shape[1:3]))

    def reduced(self, x: torch.Tensor) -> torch.Tensor:
        """The map `(B, H / R, W / R, C)` that is attended to."""
        if self.sr is None:
            return x
        x = pad_map(x, *(larger(static_size(side), self.reduction) for side in x.shape[1:3]))
        return self.norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, reduction={self.reduction}"


@register_notrace_module
class OverlappingReductionAttention(nn.Module):
    """Attention to a map that an overlapping strided convolution reduces (OSRA; TransXNet, arXiv 2310.19380).

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        reduction: Stride R of the convolution, of kernel R + 3, that keys and values are made from; 1 for none.

    Maps `(B, C, H, W)` and a bias `(1, heads, H * W, ceil(H / R) * ceil(W / R))` to `(B, H, W, C)`.
    """

    def __init__(self, dim: int, num_heads: int, reduction: int, device=None, dtype=None) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.q = Linear(dim, dim, **dd)
        self.kv = Linear(dim, 2 * dim, **dd)
        self.reduce = nn.Identity()
        if reduction > 1:
            kernel_size = reduction + 3
            self.reduce = nn.Sequential(
                ConvNorm(dim, dim, kernel_size, reduction, kernel_size // 2, groups=dim, **dd),
                nn.GELU(),
                ConvNorm(dim, dim, groups=dim, **dd),
            )
        self.local_conv = ResidualDepthwiseConv(dim, **dd)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        batch, dim, height, width = x.shape
        q = self.q(x.permute(0, 2, 3, 1)).view(batch, height * width, self.num_heads, -1).transpose(1, 2)
        kv = self.kv(self.local_conv(self.reduce(x)).permute(0, 2, 3, 1))
        k, v = kv.flatten(1, 2).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return biased_attention(q, k, v, bias).transpose(1, 2).reshape(batch, height, width, dim)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"


@register_notrace_module
class PairBias(nn.Module):
    """Learned bias for every pair of a position and a position of the reduced map.

    Args:
        num_heads: Attention heads.
        map_size: `(H, W)` of the maps that the table is stored for.
        reduction: Stride R of the reduced map.

    Maps a map `(B, C, H, W)` to `(1, heads, H * W, ceil(H / R) * ceil(W / R))`. Where these counts are not the table's
    own, it is resized as if it were an image, as in the published models.
    """

    def __init__(self, num_heads: int, map_size: tuple[int, int], reduction: int, device=None, dtype=None) -> None:
        super().__init__()
        self.reduction = reduction
        count = self._count(*map_size)
        self.table = nn.Parameter(torch.empty(1, num_heads, *count, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.table)

    def _count(self, height: int, width: int) -> tuple[int, int]:
        """Positions of a map and of its reduced map."""
        step = self.reduction
        return height * width, ((height + step - 1) // step) * ((width + step - 1) // step)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions, reduced = self._count(*x.shape[2:])
        # A graph for many sizes must hold at the table's own size too, so it always resizes; there, nothing changes.
        if not is_symbolic(positions, reduced) and (positions, reduced) == tuple(self.table.shape[2:]):
            return self.table
        table = self.table.to(torch.promote_types(self.table.dtype, torch.float32))
        # One axis at a time: the second by a product, which is much faster than to interpolate as large a table.
        rows = F.interpolate(table, size=(positions, table.shape[3]), mode="bicubic", align_corners=False)
        return (rows @ _resizing(table.shape[3], reduced, rows.dtype, rows.device)).to(self.table.dtype)


@shape_cache()
def _resizing(old: int, new: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """`(old, new)`: the matrix that resizes an axis by bicubic interpolation."""
    identity = torch.eye(old, dtype=dtype, device=device)[None, None]
    return F.interpolate(identity, size=(old, new), mode="bicubic", align_corners=False)[0, 0]
