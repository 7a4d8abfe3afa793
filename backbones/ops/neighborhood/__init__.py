"""Neighborhood attention, and the product of given window weights with values."""

from backbones.ops._dispatch import explain, use_backend
from backbones.ops.neighborhood.operators import neighborhood_attention, neighborhood_av, neighborhood_bias

__all__ = ["explain", "neighborhood_attention", "neighborhood_av", "neighborhood_bias", "use_backend"]
