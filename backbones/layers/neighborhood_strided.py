"""Neighborhood attention and window products over strided views of tiles, with a hand-written backward.

This is the eager CPU path. Its tiles fit the map exactly, so nothing is padded. Along an axis a dilation group of L
positions is cut into one tile at either border, where windows are clamped, and equal tiles between them (see `split`).
All inner tiles of all groups then share one mask, and a map is a handful of jobs (border or inner tiles on the row axis
times the same on the column axis), each a batch of equal dense attention problems. The queries and the overlapping key
blocks of a job are views of the (B, H, W, heads, C) map with suitable strides; a job is worked off in chunks whose
scores stay in the cache. The backward pass recomputes the scores, so nothing larger than the inputs is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from backbones.layers.autocast import backward_without_autocast
from backbones.layers.cache import shape_cache

CHUNK = 1 << 18  # scores worked on at a time, small enough for the cache (1 MiB in float32)
TILES = (6, 17)  # least and greatest inner tile, exclusive
TILE_COST = 3  # what a key of a block costs beyond its products with the tile's queries, in queries along one axis


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


def _reach(first: int, count: int, length: int, kernel: int) -> tuple[int, int]:
    """First key and number of keys that the windows of `count` queries from `first` on cover."""
    starts = [min(max(p - kernel // 2, 0), length - kernel) for p in (first, first + count - 1)]
    return starts[0], starts[1] + kernel - starts[0]


@lru_cache(maxsize=1024)
def split(length: int, kernel: int) -> tuple[tuple[int, int], ...]:
    """Cut `length` positions into runs of equal tiles: ((tile, tiles), ...) for border, inner tiles and border.

    A tile of T queries reads up to T + K - 1 keys: small tiles do less work that is masked afterwards, large tiles copy
    fewer keys twice. The cut with the least sum of (T + TILE_COST) * keys is taken.
    """

    def cost(cut: tuple[tuple[int, int], ...]) -> int:
        total, first = 0, 0
        for tile, tiles in cut:
            total += tiles * (tile + TILE_COST) * _reach(first, tile, length, kernel)[1]
            first += tile * tiles
        return total

    cuts = [((length, 1),)]
    border = max(kernel // 2, 1)  # the clamped windows of a border belong to its one tile
    for tile in range(*TILES):
        for tiles in range((length - 2 * border) // tile + 1):
            rest = length - tile * tiles
            cuts.append(tuple(c for c in ((rest - rest // 2, 1), (tile, tiles), (rest // 2, 1)) if c[1]))
    return min(cuts, key=cost)


@lru_cache(maxsize=1024)
def spans(size: int, kernel: int, dilation: int) -> tuple[Span, ...]:
    """All spans of an axis of `size` positions (at least kernel * dilation)."""
    result = []
    longer = size % dilation  # groups that have one position more than the others
    for group, groups, length in ((0, longer, size // dilation + 1), (longer, dilation - longer, size // dilation)):
        first = 0
        for tile, tiles in split(length, kernel) if groups else ():
            key, block = _reach(first, tile, length, kernel)
            starts = (min(max(p - kernel // 2, 0), length - kernel) for p in range(first, first + tile))
            offsets = tuple(s - key for s in starts)
            result.append(Span(kernel, dilation, group, groups, tile, tiles, first, block, key, offsets))
            first += tile * tiles
    return tuple(result)


def jobs(sizes: torch.Size, kernel: tuple[int, int], dilation: tuple[int, int]) -> Iterator[tuple[Span, Span]]:
    """(row span, column span) of every job on maps (B, H, W, ...)."""
    return product(spans(sizes[1], kernel[0], dilation[0]), spans(sizes[2], kernel[1], dilation[1]))


def chunks(batch: int, heads: int, rows: Span, cols: Span) -> Iterator[tuple[slice, Span]]:
    """Parts of a job of about CHUNK scores: images of the batch and a piece of the row span."""
    scores = heads * rows.tile * cols.tile * rows.block * cols.block * cols.groups * cols.tiles
    images = max(1, CHUNK // (scores * rows.groups * rows.tiles))
    for first in range(0, batch, images):
        for piece in rows.pieces(max(1, CHUNK // scores)):
            yield slice(first, first + images), piece


def view(x: Tensor, rows: Span, cols: Span, keys: bool = False) -> Tensor:
    """The positions of a job's queries or keys: (B, H, W, heads, C) -> (B, Gh, th, Gw, tw, heads, Nh, Nw, C), no copy.

    Gh, Gw count groups, th, tw tiles, and Nh, Nw the queries of a tile or the keys of its block. Blocks overlap.
    """
    sizes, strides, inner_sizes, inner_strides = [x.shape[0]], [x.stride(0)], [], []
    offset = x.storage_offset()
    for dim, span in ((1, rows), (2, cols)):
        s = x.stride(dim)
        offset += s * (span.group + span.dilation * (span.key if keys else span.query))
        sizes += [span.groups, span.tiles]
        strides += [s, s * span.dilation * span.tile]
        inner_sizes.append(span.block if keys else span.tile)
        inner_strides.append(s * span.dilation)
    sizes += [x.shape[3], *inner_sizes, x.shape[4]]
    strides += [x.stride(3), *inner_strides, x.stride(4)]
    return x.as_strided(sizes, strides, offset)


def add_blocks(x: Tensor, blocks: Tensor, rows: Span, cols: Span) -> None:
    """Add the blocks (tiles * heads, Nh * Nw, C) of a job to the map (B, H, W, heads, C) that they were cut from."""
    target = view(x, rows, cols, keys=True)
    blocks = blocks.view(target.shape)
    # Blocks of neighboring tiles overlap; those that are `every` tiles apart do not.
    every_h, every_w = -(-rows.block // rows.tile), -(-cols.block // cols.tile)
    for i, j in product(range(min(every_h, rows.tiles)), range(min(every_w, cols.tiles))):
        target[:, :, i::every_h, :, j::every_w].add_(blocks[:, :, i::every_h, :, j::every_w])


@shape_cache(256)
def table_rows(span: Span, device: torch.device) -> Tensor:
    """Row of the position table of every query and key of a tile: (tile * block,), 2K - 1 outside of the window."""
    key = torch.arange(span.block, device=device)
    start = torch.tensor(span.offsets, device=device).unsqueeze(1)
    query = torch.arange(span.tile, device=device).unsqueeze(1) + span.query - span.key
    inside = (key >= start) & (key < start + span.kernel)
    return torch.where(inside, key - query + span.kernel - 1, 2 * span.kernel - 1).flatten()


def job_mask(table: Tensor, rows: Span, cols: Span) -> Tensor:
    """Additive mask of a job from a position table: (heads, Th * Tw, Nh * Nw), -inf outside of a query's window."""
    ih, iw = table_rows(rows, table.device), table_rows(cols, table.device)
    table = F.pad(table, (0, 1, 0, 1), value=float("-inf"))
    mask = table.index_select(1, ih).index_select(2, iw)
    mask = mask.view(-1, rows.tile, rows.block, cols.tile, cols.block).transpose(2, 3)
    return mask.flatten(3, 4).flatten(1, 2)


def window_views(dense: Tensor, rows: Span, cols: Span) -> Iterator[tuple[Tensor, slice, slice]]:
    """The window slots of a job's queries inside of dense weights (B, Gh, th, Gw, tw, heads, Th, Tw, Nh, Nw).

    Yields views (B, Gh, th, Gw, tw, heads, u, w, K_h, K_w) of rectangles of queries, and where they are in a tile.
    """
    tile_h, tile_w, key_h, key_w = dense.stride()[6:]
    for (u, nu, row, down), (w, nw, col, right) in product(rows.segments(), cols.segments()):
        window = dense.as_strided(
            (*dense.shape[:6], nu, nw, rows.kernel, cols.kernel),
            (*dense.stride()[:6], tile_h + down * key_h, tile_w + right * key_w, key_h, key_w),
            dense.storage_offset() + u * tile_h + row * key_h + w * tile_w + col * key_w,
        )
        yield window, slice(u, u + nu), slice(w, w + nw)


def spread(attn: Tensor, rows: Span, cols: Span, dtype: torch.dtype) -> Tensor:
    """Window weights (B, H, W, heads, K * K) of a job as dense ones (tiles * heads, Th * Tw, Nh * Nw)."""
    tiles = view(attn, rows, cols).unflatten(-1, (rows.kernel, cols.kernel))
    dense = torch.zeros(*tiles.shape[:8], rows.block, cols.block, dtype=dtype, device=attn.device)
    for window, u, w in window_views(dense, rows, cols):
        window.copy_(tiles[:, :, :, :, :, :, u, w])
    return dense.flatten(8, 9).flatten(6, 7).flatten(0, 5)


def _flat(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, Gh, th, Gw, tw, heads, Nh, Nw, C) -> (tiles * heads, Nh * Nw, C), always a copy."""
    flat = torch.empty(x.shape, dtype=dtype, device=x.device).copy_(x)
    return flat.flatten(6, 7).flatten(0, 5)


def _sum_dtype(x: Tensor) -> torch.dtype:
    """The type of sums over many windows: float32 for lower precisions."""
    return torch.promote_types(x.dtype, torch.float32)


class StridedAttention(torch.autograd.Function):
    """softmax(scale * q @ k + bias) @ v; q, k, v (B, H, W, heads, C), bias (heads or 1, 2K - 1, 2K - 1)."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kernel, dilation, scale: float) -> Tensor:
        heads = q.shape[3]
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for rows, cols in jobs(q.shape, kernel, dilation):
            mask = job_mask(bias, rows, cols)[None].expand(-1, heads, -1, -1)
            for part, piece in chunks(q.shape[0], heads, rows, cols):
                # Heads stay innermost in memory, which makes the copies of the blocks long runs.
                tile = view(out[part], piece, cols)
                query = view(q[part], piece, cols)
                key, value = (view(x[part], piece, cols, keys=True) for x in (k, v))
                query, key, value = (
                    x.permute(0, 1, 2, 3, 4, 6, 7, 5, 8).flatten(5, 6).flatten(0, 4).transpose(1, 2)
                    for x in (query, key, value)
                )
                o = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
                tile.copy_(o.reshape(tile.shape))
        return out

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:4], output)
        ctx.kernel, ctx.dilation, ctx.scale = inputs[4:]

    @staticmethod
    @once_differentiable
    @backward_without_autocast
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, out = ctx.saved_tensors
        heads, dtype = q.shape[3], _sum_dtype(q)
        grad_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        grad_k, grad_v = (torch.zeros(q.shape, dtype=dtype, device=q.device) for _ in range(2))
        grad_bias = torch.zeros_like(bias, dtype=dtype)
        for rows, cols in jobs(q.shape, ctx.kernel, ctx.dilation):
            with torch.enable_grad():
                table = bias.detach().to(dtype).requires_grad_()
                table_mask = job_mask(table, rows, cols)
            mask = table_mask.detach().expand(heads, -1, -1)
            grad_mask = torch.zeros(mask.shape, dtype=dtype, device=q.device)
            for part, piece in chunks(q.shape[0], heads, rows, cols):
                query, grad_out, o = (_flat(view(x[part], piece, cols), dtype) for x in (q, grad, out))
                key, value = (_flat(view(x[part], piece, cols, keys=True), dtype) for x in (k, v))
                scores = torch.bmm(query.mul_(ctx.scale), key.transpose(1, 2))
                scores.view(-1, *mask.shape).add_(mask)
                attn = torch.softmax(scores, -1)
                add_blocks(grad_v[part], torch.bmm(attn.transpose(1, 2), grad_out), piece, cols)
                grad_scores = torch.bmm(grad_out, value.transpose(1, 2), out=scores)
                grad_scores.sub_(o.mul_(grad_out).sum(-1, keepdim=True)).mul_(attn)
                grad_mask += grad_scores.view(-1, *mask.shape).sum(0)
                add_blocks(grad_k[part], torch.bmm(grad_scores.transpose(1, 2), query), piece, cols)
                tile = view(grad_q[part], piece, cols)
                tile.copy_(torch.bmm(grad_scores, key).mul_(ctx.scale).view(tile.shape))
            grad_bias += torch.autograd.grad(table_mask, table, grad_mask.sum_to_size(table_mask.shape))[0]
        return grad_q, grad_k.to(q.dtype), grad_v.to(q.dtype), grad_bias.to(bias.dtype), None, None, None


class StridedProduct(torch.autograd.Function):
    """Window weights (B, heads, H, W, K * K) times values (B, heads, H, W, C)."""

    @staticmethod
    def forward(attn: Tensor, v: Tensor, kernel, dilation) -> Tensor:
        attn, v = attn.permute(0, 2, 3, 1, 4), v.permute(0, 2, 3, 1, 4)
        out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
        for rows, cols in jobs(v.shape, kernel, dilation):
            for part, piece in chunks(v.shape[0], v.shape[3], rows, cols):
                weights = spread(attn[part], piece, cols, v.dtype)
                tile = view(out[part], piece, cols)
                values = _flat(view(v[part], piece, cols, keys=True), v.dtype)
                tile.copy_(torch.bmm(weights, values).view(tile.shape))
        return out.permute(0, 3, 1, 2, 4)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.kernel, ctx.dilation = inputs[2:]

    @staticmethod
    @once_differentiable
    @backward_without_autocast
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        attn, v = ctx.saved_tensors
        dtype = _sum_dtype(v)
        attn, v, grad = (x.permute(0, 2, 3, 1, 4) for x in (attn, v, grad))
        grad_attn = torch.empty(attn.shape, dtype=attn.dtype, device=v.device)
        grad_v = torch.zeros(v.shape, dtype=dtype, device=v.device)
        for rows, cols in jobs(v.shape, ctx.kernel, ctx.dilation):
            for part, piece in chunks(v.shape[0], v.shape[3], rows, cols):
                grad_out = _flat(view(grad[part], piece, cols), dtype)
                weights = spread(attn[part], piece, cols, dtype)
                add_blocks(grad_v[part], torch.bmm(weights.transpose(1, 2), grad_out), piece, cols)
                values = _flat(view(v[part], piece, cols, keys=True), dtype)
                tiles = view(grad_attn[part], piece, cols).unflatten(-1, (rows.kernel, cols.kernel))
                grad_dense = torch.bmm(grad_out, values.transpose(1, 2))
                grad_dense = grad_dense.view(*tiles.shape[:8], rows.block, cols.block)
                for window, u, w in window_views(grad_dense, piece, cols):
                    tiles[:, :, :, :, :, :, u, w].copy_(window)
        return grad_attn.permute(0, 3, 1, 2, 4), grad_v.to(v.dtype).permute(0, 3, 1, 2, 4), None, None
