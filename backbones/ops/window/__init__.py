"""Attention within windows and sparse grids of a map."""

from backbones.ops.window.geometry import Groups, halo_windows, window_merge, window_partition
from backbones.ops.window.operators import window_attention

__all__ = ["Groups", "halo_windows", "window_attention", "window_merge", "window_partition"]
