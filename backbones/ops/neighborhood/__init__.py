"""Neighborhood attention, and its two products alone: of queries with window keys, of window weights with values."""

from backbones.ops._dispatch import explain, use_backend
from backbones.ops.neighborhood.operators import (
    neighborhood_attention,
    neighborhood_av,
    neighborhood_bias,
    neighborhood_qk,
)

__all__ = [
    "explain",
    "neighborhood_attention",
    "neighborhood_av",
    "neighborhood_bias",
    "neighborhood_qk",
    "use_backend",
]
