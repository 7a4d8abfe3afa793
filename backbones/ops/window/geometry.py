"""Windows and sparse grids of a map."""

from __future__ import annotations

from typing import NamedTuple

import torch

from backbones.ops.cache import shape_cache
from backbones.ops.sizes import crop_map, is_symbolic, pad_map, static_size


def window_partition(x: torch.Tensor, window_size: tuple[int, int]) -> torch.Tensor:
    """Cut `(B, H, W, C)` into its P x Q neighbourhoods: `(B, H/P * W/Q, P * Q, C)`. One copy."""
    b, h, w, c = x.shape
    p, q = window_size
    return x.reshape(b, h // p, p, w // q, q, c).transpose(2, 3).reshape(b, (h // p) * (w // q), p * q, c)


def window_merge(x: torch.Tensor, window_size: tuple[int, int], count: tuple[int, int]) -> torch.Tensor:
    """The inverse of `window_partition`; `count` is `(H/P, W/Q)`."""
    (p, q), (rows, columns) = window_size, count
    b, c = x.shape[0], x.shape[3]
    return x.reshape(b, rows, columns, p, q, c).transpose(2, 3).reshape(b, rows * p, columns * q, c)


def grid_partition(x: torch.Tensor, grid_size: tuple[int, int]) -> torch.Tensor:
    """Gather the P x Q positions of `(B, H, W, C)` that are H/P and W/Q apart: `(B, H/P * W/Q, P * Q, C)`. One copy."""
    b, h, w, c = x.shape
    p, q = grid_size
    x = x.reshape(b, p, h // p, q, w // q, c).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // p) * (w // q), p * q, c)


def grid_merge(x: torch.Tensor, grid_size: tuple[int, int], count: tuple[int, int]) -> torch.Tensor:
    """The inverse of `grid_partition`; `count` is `(H/P, W/Q)`."""
    (p, q), (rows, columns) = grid_size, count
    b, c = x.shape[0], x.shape[3]
    x = x.reshape(b, rows, columns, p, q, c).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, p * rows, q * columns, c)


class Groups(NamedTuple):
    """How maps `(B, H, W, C)` are cut into groups of P x Q positions, padded with zeros below and right.

    A group is a window, or with `grid` the positions that are as far apart as the padded map allows.
    """

    batch: int
    height: int
    width: int
    size: tuple[int, int]
    grid: bool = False

    @classmethod
    def of(cls, x: torch.Tensor, size: tuple[int, int], grid: bool = False) -> Groups:
        """The groups of a map."""
        batch, height, width = x.shape[:3]
        return cls(batch, static_size(height), static_size(width), size, grid)

    @property
    def count(self) -> tuple[int, int]:
        """Groups below each other and side by side: ceil(H / P), ceil(W / Q)."""
        return (self.height + self.size[0] - 1) // self.size[0], (self.width + self.size[1] - 1) // self.size[1]

    @property
    def single(self) -> bool:
        """Whether the map is known to be one group, whose positions are those of the only window and grid alike."""
        return not is_symbolic(self.height, self.width) and self.count == (1, 1)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, H, W, C)` with zeros below and right, to whole groups."""
        return pad_map(x, self.count[0] * self.size[0], self.count[1] * self.size[1])

    def crop(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, H, W, C)` of a padded map."""
        return crop_map(x, self.height, self.width)

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """A padded map to `(B, G, P * Q, C)`; to `(1, B * G, P * Q, C)` where sizes are symbolic. One copy.

        An exported program would else be tied to sizes with as few groups as its example: no axis counts them alone.
        """
        if is_symbolic(self.height, self.width):
            x = x.flatten(1, 2).index_select(1, self._places(x.device)[0])
            return x.flatten(0, 1).reshape(1, -1, self.size[0] * self.size[1], x.shape[-1])
        return (grid_partition if self.grid else window_partition)(x, self.size)

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `cut`, for any C. One copy."""
        if is_symbolic(self.height, self.width):
            x = x.flatten(0, 2).reshape(self.batch, -1, x.shape[-1]).index_select(1, self._places(x.device)[1])
            return x.unflatten(1, (self.count[0] * self.size[0], self.count[1] * self.size[1]))
        return (grid_merge if self.grid else window_merge)(x, self.size, self.count)

    def real(self, device: torch.device) -> torch.Tensor | None:
        """Which tokens of `cut` are no padding, bool `(1, G or B * G, P * Q)`; None if all are."""
        if is_symbolic(self.height, self.width):
            return self.cut(self.pad(torch.ones(self.batch, self.height, self.width, 1, device=device)))[..., 0] > 0
        if not (self.height % self.size[0] or self.width % self.size[1]):
            return None
        return _real(self._replace(batch=1), device)

    def _places(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Position of every token of `cut` on the flattened padded map, and the token of every position."""
        (p, q), (rows, columns) = self.size, self.count
        token = torch.arange(rows * columns * p * q, device=device)
        group, u, v = token // (p * q), token % (p * q) // q, token % q
        row, column = group // columns, group % columns
        row, column = (u * rows + row, v * columns + column) if self.grid else (row * p + u, column * q + v)
        position = row * (columns * q) + column
        return position, torch.zeros_like(token).scatter(0, position, token)


@shape_cache()
def _real(groups: Groups, device: torch.device) -> torch.Tensor:
    """`(1, G, P * Q)`: see `Groups.real`."""
    return groups.cut(groups.pad(torch.ones(1, groups.height, groups.width, 1, device=device)))[..., 0] > 0
