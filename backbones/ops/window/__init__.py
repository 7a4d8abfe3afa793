"""Attention within windows and sparse grids of a map."""

from backbones.ops.window.geometry import Groups, window_merge, window_partition
from backbones.ops.window.operators import window_attention

__all__ = ["Groups", "window_attention", "window_merge", "window_partition"]
