"""Windows and sparse grids of a map, and attention within them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from backbones.ops.cache import shape_cache
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
def real_tokens(height: int, width: int, p: int, q: int, grid: bool, device: torch.device) -> torch.Tensor:
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
