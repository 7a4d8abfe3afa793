"""How maps are cut into groups of positions: windows, shifted windows, positions at an interval."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from backbones.ops.cache import shape_cache
from backbones.ops.sizes import crop_map, is_symbolic, pad_map, static_size


def window_partition(x: torch.Tensor, window_size: tuple[int, int], interval: tuple[int, int] = (1, 1)) -> torch.Tensor:
    """Cut `(B, H, W, C)` into groups of P x Q positions at an interval of I x J: `(B, H/P * W/Q, P * Q, C)`. One copy.

    Regions of PI x QJ positions hold I x J groups each. With an interval of 1 these are windows, and with one of H/P x
    W/Q the grids of MaxViT.
    """
    b, h, w, c = x.shape
    (p, q), (i, j) = window_size, interval
    x = x.reshape(b, h // (p * i), p, i, w // (q * j), q, j, c).permute(0, 1, 3, 4, 6, 2, 5, 7)
    return x.reshape(b, (h // p) * (w // q), p * q, c)


def window_merge(
    x: torch.Tensor, window_size: tuple[int, int], count: tuple[int, int], interval: tuple[int, int] = (1, 1)
) -> torch.Tensor:
    """The inverse of `window_partition`; `count` is `(H/P, W/Q)`."""
    (p, q), (rows, columns), (i, j) = window_size, count, interval
    b, c = x.shape[0], x.shape[3]
    x = x.reshape(b, rows // i, i, columns // j, j, p, q, c).permute(0, 1, 5, 2, 3, 6, 4, 7)
    return x.reshape(b, rows * p, columns * q, c)


class Groups(NamedTuple):
    """How maps `(B, H, W, C)` are cut into groups of P x Q positions, padded with zeros below and right, or around.

    Attributes:
        batch, height, width: B, H, W.
        size: `(P, Q)`.
        grid: Take positions as far apart as the padded map allows (MaxViT, arXiv 2204.01697, section 3.2).
        interval: Rows and columns from one position of a group to the next otherwise: 1 for windows; more for groups in
            regions of `P * interval` x `Q * interval` (CrossFormer, arXiv 2108.00154, section 3.2).
        shift: Rows and columns that the map is rolled up and left (Swin, arXiv 2103.14030, section 3.2).
        roll_first: Roll the map, then pad it, as timm's Swin V2; otherwise the padded map is rolled, as in Swin's
            detectors.
        centred: Pad on all sides alike, an odd row or column after the map, as VSA's detectors do (arXiv 2204.08446).
    """

    batch: int
    height: int
    width: int
    size: tuple[int, int]
    grid: bool = False
    interval: tuple[int, int] = (1, 1)
    shift: tuple[int, int] = (0, 0)
    roll_first: bool = False
    centred: bool = False

    @classmethod
    def of(cls, x: torch.Tensor, size: tuple[int, int], grid: bool = False, **options) -> Groups:
        """The groups of a map."""
        batch, height, width = x.shape[:3]
        return cls(batch, static_size(height), static_size(width), size, grid, **options)

    @property
    def count(self) -> tuple[int, int]:
        """Groups below each other and side by side."""
        (p, q), (i, j) = self.size, (1, 1) if self.grid else self.interval
        return (self.height + p * i - 1) // (p * i) * i, (self.width + q * j - 1) // (q * j) * j

    @property
    def steps(self) -> tuple[int, int]:
        """Rows and columns of the padded map from one position of a group to the next."""
        return self.count if self.grid else self.interval

    @property
    def padded(self) -> tuple[int, int]:
        """Rows and columns of the padded map."""
        return self.count[0] * self.size[0], self.count[1] * self.size[1]

    @property
    def before(self) -> tuple[int, int]:
        """Rows of the padded map above the map, and columns left of it."""
        if not self.centred:
            return 0, 0
        return (self.padded[0] - self.height) // 2, (self.padded[1] - self.width) // 2

    @property
    def single(self) -> bool:
        """Whether the map is known to be one group, whose positions are those of the only window and grid alike."""
        return not is_symbolic(self.height, self.width) and self.count == (1, 1)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, H, W, C)` with zeros around, to whole groups; rolled."""
        if self.roll_first:
            return pad_map(self._rolled(x, -1), *self.padded, *self.before)
        return self._rolled(pad_map(x, *self.padded, *self.before), -1)

    def crop(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, H, W, C)` of a padded and rolled map."""
        if self.roll_first:
            return self._rolled(crop_map(x, self.height, self.width, *self.before), 1)
        return crop_map(self._rolled(x, 1), self.height, self.width, *self.before)

    def _rolled(self, x: torch.Tensor, sign: int) -> torch.Tensor:
        return x.roll((sign * self.shift[0], sign * self.shift[1]), (1, 2)) if any(self.shift) else x

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """A padded map to `(B, G, P * Q, C)`; to `(1, B * G, P * Q, C)` where sizes are symbolic. One copy.

        An exported program would else be tied to sizes with as few groups as its example: no axis counts them alone.
        """
        if is_symbolic(self.height, self.width):
            x = x.flatten(1, 2).index_select(1, self._places(x.device)[0])
            return x.flatten(0, 1).reshape(1, -1, self.size[0] * self.size[1], x.shape[-1])
        return window_partition(x, self.size, self.steps)

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `cut`, for any C. One copy."""
        if is_symbolic(self.height, self.width):
            x = x.flatten(0, 2).reshape(self.batch, -1, x.shape[-1]).index_select(1, self._places(x.device)[1])
            return x.unflatten(1, self.padded)
        return window_merge(x, self.size, self.count, self.steps)

    def real(self, device: torch.device) -> torch.Tensor | None:
        """Which tokens of `cut` are no padding, bool `(1, G or B * G, P * Q)`; None if all are."""
        if is_symbolic(self.height, self.width):
            return self.cut(self.pad(torch.ones(self.batch, self.height, self.width, 1, device=device)))[..., 0] > 0
        if self.padded == (self.height, self.width):
            return None
        return _real(self._replace(batch=1), device)

    def bands(self, device: torch.device) -> torch.Tensor | None:
        """Number of the part of the map that a token of `cut` is from, `(1, G or B * G, P * Q)`; None without a shift.

        Tokens of a window with different numbers are no neighbours in the map: the roll has brought them together.
        """
        if not any(self.shift):
            return None
        return self._bands(device) if is_symbolic(self.height, self.width) else _bands(self._replace(batch=1), device)

    def _bands(self, device: torch.device) -> torch.Tensor:
        rows, columns = (
            (torch.arange(n, device=device) >= n - size).float() + (torch.arange(n, device=device) >= n - shift)
            for n, size, shift in zip(self.padded, self.size, self.shift)
        )
        bands = (3 * rows[:, None] + columns).expand(self.batch, -1, -1)
        return self.cut(bands[..., None])[..., 0]

    def _places(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Position of every token of `cut` on the flattened padded map, and the token of every position."""
        (p, q), (rows, columns), (i, j) = self.size, self.count, self.steps
        token = torch.arange(rows * columns * p * q, device=device)
        group, u, v = token // (p * q), token % (p * q) // q, token % q
        row, column = group // columns, group % columns
        row, column = (row // i * p + u) * i + row % i, (column // j * q + v) * j + column % j
        position = row * (columns * q) + column
        return position, torch.zeros_like(token).scatter(0, position, token)


@shape_cache()
def _real(groups: Groups, device: torch.device) -> torch.Tensor:
    """`(1, G, P * Q)`: see `Groups.real`."""
    return groups.cut(groups.pad(torch.ones(1, groups.height, groups.width, 1, device=device)))[..., 0] > 0


@shape_cache()
def _bands(groups: Groups, device: torch.device) -> torch.Tensor:
    """`(1, G, P * Q)`: see `Groups.bands`."""
    return groups._bands(device)


def halo_windows(x: torch.Tensor, block: int, halo: int, count: tuple[int, int]) -> torch.Tensor:
    """The block of every window, and the positions at most `halo` rows and columns around it (arXiv 2103.12731).

    Args:
        x: `(B, H, W, C)`, zero outside.
        block: Side of the blocks that tile the map.
        halo: At least 0.
        count: Blocks below each other and side by side, which cover the map.

    Returns:
        `(B, G, w * w, C)`, w = block + 2 * halo; `(1, B * G, w * w, C)` where sizes are symbolic, as `Groups.cut`.
    """
    rows, columns = count
    size = block + 2 * halo
    below = rows * block + halo - static_size(x.shape[1])
    right = columns * block + halo - static_size(x.shape[2])
    x = F.pad(x, (0, 0, halo, right, halo, below))
    if is_symbolic(rows, columns, below, right):
        token = torch.arange(rows * columns * size * size, device=x.device)
        group, u, v = token // (size * size), token % (size * size) // size, token % size
        position = (group // columns * block + u) * (columns * block + 2 * halo) + group % columns * block + v
        x = x.flatten(1, 2).index_select(1, position)
        return x.flatten(0, 1).reshape(1, -1, size * size, x.shape[-1])
    x = x.unfold(1, size, block).unfold(2, size, block)
    return x.permute(0, 1, 2, 4, 5, 3).reshape(x.shape[0], rows * columns, size * size, x.shape[3])
