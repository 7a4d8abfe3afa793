"""How the eager CPU path of neighborhood attention cuts an axis: tiles that fit exactly, and chunks for the cache.

Along an axis with dilation d and stride s, a dilation group of L positions is an ordinary axis; a stride group is s
consecutive positions of it that share one window. All numbers here are plain ints.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from torch import Size

CHUNK = 1 << 18  # scores worked on at a time, small enough for the cache (1 MiB in float32)
TILES = (6, 16)  # least and greatest inner tile
TILE_OF_GROUPS = 4  # least inner tile of whole stride groups, whose block is smaller
TILE_COST = 3  # what a key of a block costs beyond its products with the tile's queries, in queries along one axis
RUN_COST = 20  # what a run of equal tiles costs, in the same unit; only where a stride lets one run cover a whole axis


class Span(NamedTuple):
    """Equal tiles along one axis: `tiles` tiles of `tile` queries and `block` keys in each of `groups` groups."""

    kernel: int
    dilation: int
    group: int  # first group
    groups: int
    tile: int
    tiles: int
    query: int  # position in the group of the first query of the first tile
    block: int
    key: int  # position in the group of the first key of the first tile's block
    offsets: tuple[int, ...]  # per query of a tile, where its window starts in the block

    @property
    def dense(self) -> bool:
        """Whether all queries of a tile share one window."""
        return self.block == self.kernel

    @lru_cache(maxsize=1024)  # noqa: B019 - a span is a tuple of numbers
    def segments(self) -> list[tuple[int, int, int, int]]:
        """(first query, queries, window start of the first, 1 if the window slides with the query else 0) runs."""
        runs: list[tuple[int, int, int, int]] = []
        for u, offset in enumerate(self.offsets):
            if runs:
                first, count, start, slope = runs[-1]
                step = offset - self.offsets[u - 1]
                if count == 1 or step == slope:
                    runs[-1] = (first, count + 1, start, step)
                    continue
            runs.append((u, 1, offset, 0))
        return runs

    def pieces(self, limit: int) -> Iterator[Span]:
        """Cut the span so that every piece has at most `limit` tiles, if possible."""
        if self.groups * self.tiles <= limit:
            yield self
        elif self.groups > 1:
            size = max(1, limit // self.tiles)
            for g in range(0, self.groups, size):
                part = self._replace(group=self.group + g, groups=min(size, self.groups - g))
                yield from part.pieces(limit)
        else:
            size = max(1, limit)
            for t in range(0, self.tiles, size):
                shift = t * self.tile
                yield self._replace(tiles=min(size, self.tiles - t), query=self.query + shift, key=self.key + shift)


def _start(position: int, length: int, kernel: int, stride: int) -> int:
    """First key of the window of the query at `position` of a group of `length`."""
    leader = position // stride * stride + stride // 2
    return min(max(leader - kernel // 2, 0), length - kernel)


def reach(first: int, count: int, length: int, kernel: int, stride: int) -> tuple[int, int]:
    """First key and number of keys that the windows of `count` queries from `first` on cover."""
    starts = [_start(p, length, kernel, stride) for p in (first, first + count - 1)]
    return starts[0], starts[1] + kernel - starts[0]


@lru_cache(maxsize=1024)
def split(length: int, kernel: int, stride: int = 1) -> tuple[tuple[int, int], ...]:
    """Cut `length` positions into runs of equal tiles: ((tile, tiles), ...) for border, inner tiles and border.

    A tile of T queries reads up to T + K - 1 keys: small tiles do less work that is masked afterwards, large tiles copy
    fewer keys twice. The cut with the least sum of (T + TILE_COST) * keys is taken. Inner tiles are of whole stride
    groups.
    """

    def cost(cut: tuple[tuple[int, int], ...]) -> int:
        total, first = RUN_COST * len(cut) if stride > 1 else 0, 0
        for tile, tiles in cut:
            total += tiles * (tile + TILE_COST) * reach(first, tile, length, kernel, stride)[1]
            first += tile * tiles
        return total

    cuts = [((length, 1),)]
    # The clamped windows of a border belong to its one tile: stride groups before `low` and from `high` on.
    low = -(-(kernel // 2 - stride // 2) // stride)
    high = min((length - kernel + kernel // 2 - stride // 2) // stride + 1, length // stride)
    least = TILE_OF_GROUPS if stride > 1 else TILES[0]
    for groups in range(-(-least // stride), max(TILES[1] // stride, 1) + 1):
        tile = groups * stride
        for tiles in range((high - low) // groups + 1):
            front = (low + (high - low - tiles * groups + 1) // 2) * stride
            runs = ((front, 1), (tile, tiles), (length - front - tile * tiles, 1))
            cuts.append(tuple(run for run in runs if all(run)))
    return min(cuts, key=cost)


@lru_cache(maxsize=1024)
def spans(size: int, kernel: int, dilation: int, stride: int = 1) -> tuple[Span, ...]:
    """All spans of an axis of `size` positions (at least kernel * dilation)."""
    result = []
    longer = size % dilation  # groups that have one position more than the others
    for group, groups, length in ((0, longer, size // dilation + 1), (longer, dilation - longer, size // dilation)):
        first = 0
        for tile, tiles in split(length, kernel, stride) if groups else ():
            key, block = reach(first, tile, length, kernel, stride)
            offsets = tuple(_start(p, length, kernel, stride) - key for p in range(first, first + tile))
            result.append(Span(kernel, dilation, group, groups, tile, tiles, first, block, key, offsets))
            first += tile * tiles
    return tuple(result)


def jobs(
    sizes: Size, kernel: tuple[int, int], dilation: tuple[int, int], stride: tuple[int, int] = (1, 1)
) -> Iterator[tuple[Span, Span]]:
    """(row span, column span) of every job on maps (B, H, W, ...)."""
    return product(*(spans(*axis) for axis in zip(sizes[1:3], kernel, dilation, stride)))


def chunks(batch: int, heads: int, rows: Span, cols: Span) -> Iterator[tuple[slice, Span]]:
    """Parts of a job of about CHUNK scores: images of the batch and a piece of the row span."""
    scores = heads * rows.tile * cols.tile * rows.block * cols.block * cols.groups * cols.tiles
    images = max(1, CHUNK // (scores * rows.groups * rows.tiles))
    for first in range(0, batch, images):
        for piece in rows.pieces(max(1, CHUNK // scores)):
            yield slice(first, first + images), piece
