"""Attention within windows and sparse grids of a map."""

from backbones.ops.window.geometry import Groups, halo_windows, window_merge, window_partition
from backbones.ops.window.operators import window_attention
from backbones.ops.window.sampling import sample_windows

__all__ = ["Groups", "halo_windows", "sample_windows", "window_attention", "window_merge", "window_partition"]
