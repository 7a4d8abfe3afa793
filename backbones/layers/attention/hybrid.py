"""Attention within windows and within grids at once, from one set of queries, keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, to_2tuple
from torch import nn

from backbones.layers.pointwise import Linear
from backbones.ops.fusion import fused
from backbones.ops.window import gather_indices, grid_merge, grid_partition, window_merge, window_partition


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
        height, width = x.shape[1:3]
        if isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt):
            remote = self._forward_any_size(x, grid=True)
            return remote + self._forward_any_size(x, grid=False) if self.close else remote
        p, q = self.window_size
        count = (height + p - 1) // p, (width + q - 1) // q
        padded = height % p or width % q
        if padded:
            x = F.pad(x, (0, 0, 0, count[1] * q - width, 0, count[0] * p - height))
        qk, v = self.qk(x), fused(self.v, self.act)(x)
        y = self._attend(grid_partition(qk, (p, q)), grid_partition(v, (p, q)))
        y = grid_merge(y, (p, q), count)
        if self.close and count == (1, 1):
            y = 2 * y  # one window and one grid, of the same positions
        elif self.close:
            close = self._attend(window_partition(qk, (p, q)), window_partition(v, (p, q)))
            y = y + window_merge(close, (p, q), count)
        return y[:, :height, :width] if padded else y

    def _forward_any_size(self, x: torch.Tensor, grid: bool) -> torch.Tensor:
        """One of the two for symbolic sizes; see `WindowAttention`. Here padding holds what a zero input gives."""
        b, height, width, dim = x.shape
        p, q = self.window_size
        position, real, token = gather_indices(height, width, p, q, grid, x.device)
        x = x.flatten(1, 2).index_select(1, position) * real[:, None].to(x.dtype)
        x = x.flatten(0, 1).reshape(1, -1, p * q, dim)
        y = self._attend(self.qk(x), fused(self.v, self.act)(x))
        y = y.flatten(0, 2).reshape(b, -1, y.shape[-1])
        return y.index_select(1, token).unflatten(1, (height, width))

    def _attend(self, qk: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """`(B, G, N, 2C)` and `(B, G, N, M)` to `(B, G, N, M)`: attention among the N tokens of every group."""
        b, groups, n, hidden_dim = v.shape
        q, k = qk.reshape(b * groups, n, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        v = v.reshape(b * groups, n, self.num_heads, -1).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(b, groups, n, hidden_dim)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, window_size={self.window_size}, close={self.close}"
