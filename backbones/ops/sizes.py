"""Sides of maps: numbers, symbolic where torch.compile or torch.export capture, tensors under torch.jit.trace."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def static_size(n: int | torch.Tensor) -> int:
    """A size as a number: under torch.jit.trace sizes are tensors, and what a traced graph does is fixed."""
    return int(n) if isinstance(n, torch.Tensor) else n


def larger(n: int | torch.SymInt, other: int) -> int | torch.SymInt:
    """`max` that binds no symbolic size to the side it is on."""
    return max(n, other) if isinstance(n, int) else torch.sym_max(n, other)


def smaller(n: int | torch.SymInt, other: int) -> int | torch.SymInt:
    return min(n, other) if isinstance(n, int) else torch.sym_min(n, other)


def is_symbolic(*sizes: int | torch.SymInt) -> bool:
    """Whether a size is one of a graph for many sizes."""
    return any(isinstance(n, torch.SymInt) for n in sizes)


def pad_map(x: torch.Tensor, height: int, width: int, top: int = 0, left: int = 0) -> torch.Tensor:
    """`(B, H, W, C)` with zeros around, `(B, height, width, C)`; `x` itself where it has that size.

    Args:
        x: The map.
        height, width: Rows and columns of the result.
        top, left: How many of them are before the map's; the others come after.
    """
    bottom, right = height - x.shape[1] - top, width - x.shape[2] - left
    # A symbolic padding is always applied, so that an exported program holds for every size.
    fits = isinstance(bottom, int) and isinstance(right, int) and not (bottom or right or top or left)
    return x if fits else F.pad(x, (0, 0, left, right, top, bottom))


def crop_map(x: torch.Tensor, height: int, width: int, top: int = 0, left: int = 0) -> torch.Tensor:
    """The `(B, height, width, C)` of a map from row `top` and column `left` on."""
    if not is_symbolic(*x.shape[1:3], height, width):
        return x[:, top : top + height, left : left + width]
    # A slice of symbolic size would be compared with its base to learn its layout; an index is just copied.
    for dim, first, size in ((1, top, height), (2, left, width)):
        x = x.index_select(dim, torch.arange(size, device=x.device) + first)
    return x
