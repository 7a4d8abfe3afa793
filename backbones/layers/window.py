"""Multi-axis attention: self-attention within local windows and within sparse global grids (MaxViT)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, to_2tuple
from torch import nn

from backbones.layers.pointwise import Linear
from backbones.layers.relpos import RelativePositionBias2d
from backbones.ops.cache import shape_cache
from backbones.ops.chunks import in_chunks
from backbones.ops.sdpa import biased_attention


def window_partition(x: torch.Tensor, window_size: tuple[int, int]) -> torch.Tensor:
    """Cut `(B, H, W, C)` into its P x Q neighbourhoods: `(B, H/P * W/Q, P * Q, C)`. One copy."""
    b, h, w, c = x.shape
    p, q = window_size
    return x.reshape(b, h // p, p, w // q, q, c).transpose(2, 3).reshape(b, (h // p) * (w // q), p * q, c)


def window_merge(x: torch.Tensor, window_size: tuple[int, int], count: tuple[int, int]) -> torch.Tensor:
    """The inverse of `window_partition`; `count` is `(H/P, W/Q)`."""
    (p, q), (rows, columns) = window_size, count
    b, c = x.shape[0], x.shape[3]
    return x.reshape(b, rows, columns, p, q, c).transpose(2, 3).reshape(b, rows * p, columns * q, c)


def grid_partition(x: torch.Tensor, grid_size: tuple[int, int]) -> torch.Tensor:
    """Gather the P x Q positions of `(B, H, W, C)` that are H/P and W/Q apart: `(B, H/P * W/Q, P * Q, C)`. One copy."""
    b, h, w, c = x.shape
    p, q = grid_size
    x = x.reshape(b, p, h // p, q, w // q, c).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // p) * (w // q), p * q, c)


def grid_merge(x: torch.Tensor, grid_size: tuple[int, int], count: tuple[int, int]) -> torch.Tensor:
    """The inverse of `grid_partition`; `count` is `(H/P, W/Q)`."""
    (p, q), (rows, columns) = grid_size, count
    b, c = x.shape[0], x.shape[3]
    x = x.reshape(b, rows, columns, p, q, c).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, p * rows, q * columns, c)


@shape_cache()
def _real_tokens(height: int, width: int, p: int, q: int, grid: bool, device: torch.device) -> torch.Tensor:
    """`(groups, P * Q)`: whether a group's token is a position of the map, not of its padding below and right."""
    real = torch.ones(1, height, width, 1, dtype=torch.bool, device=device)
    real = F.pad(real, (0, 0, 0, -width % q, 0, -height % p))
    return (grid_partition if grid else window_partition)(real, (p, q))[0, :, :, 0]


def gather_indices(
    height: int, width: int, p: int, q: int, grid: bool, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Partition and merge as gathers along the flattened map, with indices that have a single axis.

    Returns:
        Position of every token (padding repeats the last row and column), whether the token is real, and the token of
        every position.
    """
    rows, columns = (height + p - 1) // p, (width + q - 1) // q
    token = torch.arange(rows * columns * p * q, device=device)
    group, u, v = token // (p * q), token % (p * q) // q, token % q
    row_group, column_group = group // columns, group % columns
    row = u * rows + row_group if grid else row_group * p + u
    column = v * columns + column_group if grid else column_group * q + v
    real = (row < height) & (column < width)
    position = row.clamp(max=height - 1) * width + column.clamp(max=width - 1)

    place = torch.arange(height * width, device=device)
    row, column = place // width, place % width
    row_group, u = (row % rows, row // rows) if grid else (row // p, row % p)
    column_group, v = (column % columns, column // columns) if grid else (column // q, column % q)
    return position, real, ((row_group * columns + column_group) * p + u) * q + v


def grouped_attention(
    qkv: torch.Tensor, num_heads: int, bias: torch.Tensor | None = None, real: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention among the N tokens of every group.

    Args:
        qkv: `(B, G, N, 3C)`: queries, keys, values; each holds the heads one after another.
        num_heads: Heads; C / heads is the head's width, and its root the divisor of the products.
        bias: `(heads, N, N)`, query by key, added to the products.
        real: `(B, G, N)` bool, False for tokens that no query may attend to. Every group needs one that is True.

    Returns:
        `(B, G, N, C)`.
    """
    b, g, n, width = qkv.shape
    q, k, v = (t.transpose(1, 2) for t in qkv.reshape(b * g, n, 3, num_heads, width // (3 * num_heads)).unbind(2))
    if bias is not None:
        bias = bias.to(q.dtype)[None]
    if real is not None:
        if bias is None:
            bias = qkv.new_zeros(1, 1, n, n)
        bias = bias.masked_fill(~real.reshape(b * g, 1, 1, n), float("-inf"))
    out = biased_attention(q, k, v, bias)
    return out.transpose(1, 2).reshape(b, g, n, width // 3)


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
        real = _real_tokens(height, width, p, q, self.grid, x.device) if padded else None
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
