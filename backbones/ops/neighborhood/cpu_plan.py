"""How the "cpu" backend of neighborhood attention cuts an axis: tiles that fit exactly, and chunks for the cache.

Along an axis with dilation d and stride s, a dilation group of L positions is an ordinary axis; a stride group is s
consecutive positions of it that share one window. All numbers here are plain ints: runs of tiles and chunks are loops
in Python. `tiled.Axis` is the plan for graphs, whose sizes may be symbolic: equal tiles in one batch, padded at both
ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from torch import Size

from backbones.ops.neighborhood.geometry import key_range, window_start

CHUNK = 1 << 18  # scores worked on at a time, small enough for the cache (1 MiB in float32)
TILES = (4, 16)  # least and greatest inner tile
# Measured, in keys times queries along one axis: what a key of a block costs beyond its products with the tile's
# queries, in queries; and what each set of windows costs that are clamped or slide alike and are computed together.
TILE_COST = 4
RUN_COST = 20


class Span(NamedTuple):
    """Tiles of one size along one axis: `tiles` tiles of `tile` queries and `block` keys in each of `groups` groups."""

    kernel: int
    dilation: int
    group: int  # first group
    groups: int
    tile: int
    tiles: int
    query: int  # position in the group of the first query of the first tile
    query_step: int  # from a tile to the next
    block: int
    key: int  # position in the group of the first key of the first tile's block
    key_step: int
    offsets: tuple[int, ...]  # per query of a tile, where its window starts in the block

    @property
    def dense(self) -> bool:
        """Whether all queries of a tile share one window."""
        return self.block == self.kernel

    @property
    def masks(self) -> int:
        """How many of the tiles, from the first on, differ in where their keys lie around their queries."""
        return 1 if self.query_step == self.key_step else self.tiles

    @lru_cache(maxsize=1024)  # noqa: B019 - a span is a tuple of numbers
    def segments(self) -> list[tuple[slice, int, int]]:
        """(queries, window start of the first, 1 if the window slides with the query else 0) runs."""
        runs: list[tuple[slice, int, int]] = []
        first = 0
        while first < self.tile:
            last = first + 1
            slope = self.offsets[last] - self.offsets[first] if last < self.tile else 0
            while last < self.tile and self.offsets[last] - self.offsets[last - 1] == slope:
                last += 1
            runs.append((slice(first, last), self.offsets[first], slope))
            first = last
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
                yield self._replace(
                    tiles=min(size, self.tiles - t),
                    query=self.query + t * self.query_step,
                    key=self.key + t * self.key_step,
                )


@lru_cache(maxsize=1024)
def split(length: int, kernel: int, stride: int = 1) -> tuple[tuple[int, int, int, int], ...]:
    """Cut `length` positions into runs of equal tiles: ((first query, tile, tiles, step), ...).

    Inner tiles are of whole stride groups. Two borders of one size are one run if each is short enough for its queries
    to share one window. A tile of T queries reads up to T + K - 1 keys: small tiles do less work that is masked
    afterwards, large tiles copy fewer keys twice. The cut with the least sum of (T + TILE_COST) * keys over its tiles
    is taken, to which each run adds RUN_COST, and twice that if some of its windows are clamped and others slide.
    """
    # The clamped windows of a border belong to its one tile: stride groups before `low` and from `high` on.
    low = -(-(kernel // 2 - stride // 2) // stride)
    high = min((length - kernel + kernel // 2 - stride // 2) // stride + 1, length // stride)

    def keys(first: int, tile: int) -> int:
        return key_range(first, tile, length, kernel, stride)[1]

    def cost(cut: tuple[tuple[int, int, int, int], ...]) -> int:
        total = 0
        for first, tile, tiles, _ in cut:
            block = keys(first, tile)
            inner = low * stride <= first and first + tile <= high * stride
            total += tiles * (tile + TILE_COST) * block + RUN_COST * (1 if inner or block == kernel else 2)
        return total

    cuts = [((0, length, 1, length),)]
    for groups in range(-(-TILES[0] // stride), max(TILES[1] // stride, 1) + 1):
        tile = groups * stride
        for tiles in range((high - low) // groups + 1):
            front = (low + (high - low - tiles * groups + 1) // 2) * stride
            back = length - front - tile * tiles
            cut = [(front, tile, tiles, tile), (0, front, 1, front), (length - back, back, 1, back)]
            if front == back > 0 and keys(0, front) == keys(length - back, back) == kernel:
                cut[1:] = [(0, front, 2, length - back)]
            cuts.append(tuple(run for run in cut if run[1] * run[2]))
    return min(reversed(cuts), key=cost)  # of equals the one with larger tiles, whose copies take less memory


@lru_cache(maxsize=1024)
def spans(size: int, kernel: int, dilation: int, stride: int = 1) -> tuple[Span, ...]:
    """All spans of an axis of `size` positions (at least kernel * dilation)."""
    result = []
    longer = size % dilation  # groups that have one position more than the others
    for group, groups, length in ((0, longer, size // dilation + 1), (longer, dilation - longer, size // dilation)):
        for first, tile, tiles, step in split(length, kernel, stride) if groups else ():
            key, block = key_range(first, tile, length, kernel, stride)
            key_step = window_start(first + step, length, kernel, stride) - key if tiles > 1 else step
            offsets = tuple(window_start(p, length, kernel, stride) - key for p in range(first, first + tile))
            span = Span(kernel, dilation, group, groups, tile, tiles, first, step, block, key, key_step, offsets)
            result.append(span)
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
