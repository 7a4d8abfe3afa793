"""Attention of regions of a map to routed regions of it."""

from backbones.ops.routing.geometry import Regions
from backbones.ops.routing.operators import routed_attention

__all__ = ["Regions", "routed_attention"]
