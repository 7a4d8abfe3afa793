"""Attention within windows and within grids at once, from one set of queries, keys and values."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module, to_2tuple
from torch import nn

from backbones.layers.pointwise import Linear
from backbones.ops.fusion import fused
from backbones.ops.window import Groups, window_attention


@register_notrace_module
class HybridWindowAttention(nn.Module):
    """Close and remote attention that expands the channels (EMOv2, arXiv 2412.06674, section 3.3).

    Close attention is among the positions of a P x Q window, remote attention among the P x Q positions that are as far
    apart as the map allows. Both share queries, keys and values, and are summed. The values are widened and go through
    GELU; there is no position bias and no output projection.

    Where the window does not divide the map, the input is zero-padded below and right. Padding is attended to like any
    other position, as in the published models, so results there depend on the window.

    Args:
        dim: Channels C.
        hidden_dim: Channels M of the values.
        num_heads: Heads; must divide C and M.
        window_size: P, or `(P, Q)`.
        close: Add close attention to remote attention.

    Maps `(B, H, W, C)` to `(B, H, W, M)`.

    Raises:
        ValueError: Widths that `num_heads` does not divide.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_heads: int,
        window_size: int | tuple[int, int] = 7,
        close: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if dim % num_heads or hidden_dim % num_heads:
            raise ValueError(f"dim {dim} and hidden_dim {hidden_dim} must be multiples of num_heads {num_heads}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.window_size = to_2tuple(window_size)
        self.close = close
        self.qk = Linear(dim, 2 * dim, **dd)
        self.v = Linear(dim, hidden_dim, **dd)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = Groups.of(x, self.window_size, grid=True)
        x = grid.pad(x)
        qk, v = self.qk(x), fused(self.v, self.act)(x)
        y = self._attend(qk, v, grid)
        if self.close and grid.single:
            y = 2 * y
        elif self.close:
            y = y + self._attend(qk, v, grid._replace(grid=False))
        return grid.crop(y)

    def _attend(self, qk: torch.Tensor, v: torch.Tensor, groups: Groups) -> torch.Tensor:
        """`(B, H, W, 2C)` and `(B, H, W, M)`, padded, to `(B, H, W, M)`."""
        q, k = groups.cut(qk).unflatten(-1, (2, self.num_heads, -1)).unbind(3)
        y = window_attention(q, k, groups.cut(v).unflatten(-1, (self.num_heads, -1)))
        return groups.join(y.flatten(3))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, window_size={self.window_size}, close={self.close}"
