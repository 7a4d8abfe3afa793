"""Multi-axis attention: self-attention within local windows and within sparse global grids (MaxViT)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, to_2tuple
from torch import nn

from backbones.layers.attention.relpos import RelativePositionBias2d
from backbones.layers.pointwise import Linear
from backbones.ops.chunks import in_chunks
from backbones.ops.window import (
    gather_indices,
    grid_merge,
    grid_partition,
    grouped_attention,
    real_tokens,
    window_merge,
    window_partition,
)


@register_notrace_module
class WindowAttention(nn.Module):
    """Self-attention within P x Q windows that tile the map (MaxViT, arXiv 2204.01697, section 3.2, "block" attention).

    Where the window does not divide the map, the map is zero-padded below and right, and no query attends to padding.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        window_size: P, or `(P, Q)`.
        qkv_bias: Bias of the input projection.
        rel_pos_bias: Learn a bias for every (key minus query) offset.

    Maps `(B, H, W, C)` to `(B, H, W, C)`.
    """

    grid = False

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int | tuple[int, int] = 7,
        qkv_bias: bool = True,
        rel_pos_bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.window_size = to_2tuple(window_size)
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.rel_pos = RelativePositionBias2d(num_heads, self.window_size, **dd) if rel_pos_bias else None
        self.proj = Linear(dim, dim, **dd)

    def set_window_size(self, window_size: int | tuple[int, int]) -> None:
        """Change the window, and resize the bias table to it."""
        self.window_size = to_2tuple(window_size)
        if self.rel_pos is not None:
            self.rel_pos.set_window_size(self.window_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        if isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt):
            return self._forward_any_size(x)
        p, q = self.window_size
        count = (height + p - 1) // p, (width + q - 1) // q
        padded = height % p or width % q
        real = real_tokens(height, width, p, q, self.grid, x.device) if padded else None
        if padded:
            x = F.pad(x, (0, 0, 0, count[1] * q - width, 0, count[0] * p - height))
        x = grid_partition(x, (p, q)) if self.grid else window_partition(x, (p, q))
        x = self._attend(x, real)
        x = grid_merge(x, (p, q), count) if self.grid else window_merge(x, (p, q), count)
        return x[:, :height, :width] if padded else x

    def _forward_any_size(self, x: torch.Tensor) -> torch.Tensor:
        """The same for symbolic sizes: no shape tells whether there is padding, and no axis counts groups alone.

        An exported program would else be tied to sizes with as much padding, or with as few groups, as its example.
        """
        b, height, width, _ = x.shape
        p, q = self.window_size
        position, real, token = gather_indices(height, width, p, q, self.grid, x.device)
        x = x.flatten(1, 2).index_select(1, position).flatten(0, 1)
        x = self._attend(x.reshape(1, -1, p * q, x.shape[-1]), real.repeat(b).reshape(-1, p * q))
        x = x.flatten(0, 2).reshape(b, -1, x.shape[-1])
        return x.index_select(1, token).unflatten(1, (height, width))

    def _attend(self, x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        bias = self.rel_pos(*self.window_size) if self.rel_pos is not None else None

        def attend(x: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
            return self.proj(grouped_attention(self.qkv(x), self.num_heads, bias, real))

        if real is not None:
            real = real.expand(x.shape[0], -1, -1)
        return in_chunks(attend, x, lambda: (self.qkv, self.proj), axis=1, beside=real)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, window_size={self.window_size}"


@register_notrace_module
class GridAttention(WindowAttention):
    """Self-attention among the P x Q positions that are H/P rows and W/Q columns apart (MaxViT, section 3.2).

    The relative position bias counts steps of the grid, not pixels. Arguments and padding as in `WindowAttention`.
    """

    grid = True
