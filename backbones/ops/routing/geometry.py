"""How a map is cut into regions."""

from __future__ import annotations

from typing import NamedTuple

import torch

from backbones.ops.sizes import pad_map


class Regions(NamedTuple):
    """`rows` x `cols` regions of `height` x `width` tokens; they cover the map and may end beyond it."""

    rows: int
    cols: int
    height: int
    width: int

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, H, W, C)` to `(B, R, t, C)`, zero-padded; regions and their tokens in row-major order. One copy."""
        x = pad_map(x, self.rows * self.height, self.cols * self.width)
        batch, _, _, dim = x.shape
        x = x.reshape(batch, self.rows, self.height, self.cols, self.width, dim).transpose(2, 3)
        return x.reshape(batch, self.rows * self.cols, self.height * self.width, dim)

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, R, t, C)` to `(B, rows * height, cols * width, C)`. One copy."""
        batch, _, _, dim = x.shape
        x = x.reshape(batch, self.rows, self.cols, self.height, self.width, dim).transpose(2, 3)
        return x.reshape(batch, self.rows * self.height, self.cols * self.width, dim)

    def token_count(self, height: int, width: int, device: torch.device) -> torch.Tensor:
        """`(R, 1)`: tokens of every region that lie on a map of `height` x `width`."""
        rows = (height - torch.arange(self.rows, device=device) * self.height).clamp(max=self.height)
        cols = (width - torch.arange(self.cols, device=device) * self.width).clamp(max=self.width)
        return (rows[:, None] * cols).view(-1, 1)
