"""The 3 x 3 neighbourhoods of a grid of super tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_OFFSETS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))


def _shifted(x: torch.Tensor, row: int, column: int) -> torch.Tensor:
    """`y[:, i, j] = x[:, i + row, j + column]`, zero where that is outside of the grid."""
    return F.pad(x, (0, 0, -column, column, -row, row))


def neighbours(x: torch.Tensor) -> torch.Tensor:
    """`(B, rows, columns, C)` to `(B, rows * columns, 9, C)`: every cell's neighbourhood, row-major, zero outside."""
    return torch.stack([_shifted(x, *offset) for offset in _OFFSETS], dim=3).flatten(1, 2)


def sum_to_neighbours(y: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The transpose of `neighbours`: what every cell gives to its 9 neighbours, summed up where it arrives.

    Args:
        y: `(B, rows * columns, 9, C)`; what leaves the grid is lost.
        rows, columns: Of the grid.

    Returns:
        `(B, rows, columns, C)`.
    """
    parts = y.unflatten(1, (rows, columns)).unbind(3)
    return sum(_shifted(part, -row, -column) for part, (row, column) in zip(parts, _OFFSETS, strict=True))
