"""How a map is cut into regions."""

from __future__ import annotations

from typing import NamedTuple

import torch

from backbones.ops.sizes import pad_map
from backbones.ops.window.geometry import window_merge, window_partition


class Regions(NamedTuple):
    """`rows` x `cols` regions of `height` x `width` tokens; they cover the map and may end beyond it."""

    rows: int
    cols: int
    height: int
    width: int

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, H, W, C)` to `(B, R, t, C)`, zero-padded; regions and their tokens in row-major order. One copy."""
        x = pad_map(x, self.rows * self.height, self.cols * self.width)
        return window_partition(x, (self.height, self.width))

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, R, t, C)` to `(B, rows * height, cols * width, C)`. One copy."""
        return window_merge(x, (self.height, self.width), (self.rows, self.cols))

    def token_count(self, height: int, width: int, device: torch.device) -> torch.Tensor:
        """`(R, 1)`: tokens of every region that lie on a map of `height` x `width`."""
        rows = (height - torch.arange(self.rows, device=device) * self.height).clamp(max=self.height)
        cols = (width - torch.arange(self.cols, device=device) * self.width).clamp(max=self.width)
        return (rows[:, None] * cols).view(-1, 1)
