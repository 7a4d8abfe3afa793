"""Sides of maps: numbers, symbolic where torch.compile or torch.export capture, tensors under torch.jit.trace."""

from __future__ import annotations

import torch


def static_size(n: int | torch.Tensor) -> int:
    """A size as a number: under torch.jit.trace sizes are tensors, and what a traced graph does is fixed."""
    return int(n) if isinstance(n, torch.Tensor) else n


def larger(n: int | torch.SymInt, other: int) -> int | torch.SymInt:
    """`max` that binds no symbolic size to the side it is on."""
    return max(n, other) if isinstance(n, int) else torch.sym_max(n, other)


def smaller(n: int | torch.SymInt, other: int) -> int | torch.SymInt:
    return min(n, other) if isinstance(n, int) else torch.sym_min(n, other)
