"""Neighborhood attention and window products over strided views of tiles, with a hand-written backward.

This is the eager CPU path. Its tiles fit the map exactly, so nothing is padded. Along an axis a dilation group of L
positions is cut into one tile at either border, where windows are clamped, and equal tiles between them
(`neighborhood_spans.split`). All inner tiles of all groups then share one mask, or need none where a stride makes their
queries share one window, and a map is a handful of jobs (border or inner tiles on the row axis times the same on the
column axis), each a batch of equal dense attention problems. The queries and the overlapping key
blocks of a job are views of the (B, H, W, heads, C) map with suitable strides; a job is worked off in chunks whose
scores stay in the cache. The backward pass recomputes the scores, so nothing larger than the inputs is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from backbones.layers.autocast import backward_without_autocast
from backbones.layers.cache import shape_cache
from backbones.layers.neighborhood_spans import Span, chunks, jobs


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


def attention_mask(bias: Tensor | None, rows: Span, cols: Span, like: Tensor) -> Tensor | None:
    """`job_mask` of a table or of none; None where nothing is added and nothing masked."""
    if bias is None:
        if rows.dense and cols.dense:
            return None
        bias = like.new_zeros(1, 2 * rows.kernel - 1, 2 * cols.kernel - 1)
    return job_mask(bias, rows, cols)


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
    """softmax(scale * q @ k + bias) @ v; q, k, v (B, H, W, heads, C), bias (heads, 2K - 1, 2K - 1) or None."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel, dilation, stride, scale: float) -> Tensor:
        heads = q.shape[3]
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for rows, cols in jobs(q.shape, kernel, dilation, stride):
            mask = attention_mask(bias, rows, cols, q)
            if mask is not None:
                mask = mask[None].expand(-1, heads, -1, -1)
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
        ctx.window, ctx.scale = inputs[4:7], inputs[7]

    @staticmethod
    @once_differentiable
    @backward_without_autocast
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, out = ctx.saved_tensors
        heads, dtype = q.shape[3], _sum_dtype(q)
        grad_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        grad_k, grad_v = (torch.zeros(q.shape, dtype=dtype, device=q.device) for _ in range(2))
        grad_bias = torch.zeros_like(bias, dtype=dtype) if ctx.needs_input_grad[3] else None
        for rows, cols in jobs(q.shape, *ctx.window):
            with torch.enable_grad():
                table = None if bias is None else bias.detach().to(dtype).requires_grad_(grad_bias is not None)
                table_mask = attention_mask(table, rows, cols, grad_k)
            mask = None if table_mask is None else table_mask.detach().expand(heads, -1, -1)
            grad_mask = None if grad_bias is None else torch.zeros_like(mask, memory_format=torch.contiguous_format)
            for part, piece in chunks(q.shape[0], heads, rows, cols):
                query, grad_out, o = (_flat(view(x[part], piece, cols), dtype) for x in (q, grad, out))
                key, value = (_flat(view(x[part], piece, cols, keys=True), dtype) for x in (k, v))
                scores = torch.bmm(query.mul_(ctx.scale), key.transpose(1, 2))
                if mask is not None:
                    scores.view(-1, *mask.shape).add_(mask)
                attn = torch.softmax(scores, -1)
                add_blocks(grad_v[part], torch.bmm(attn.transpose(1, 2), grad_out), piece, cols)
                grad_scores = torch.bmm(grad_out, value.transpose(1, 2), out=scores)
                grad_scores.sub_(o.mul_(grad_out).sum(-1, keepdim=True)).mul_(attn)
                if grad_mask is not None:
                    grad_mask += grad_scores.view(-1, *mask.shape).sum(0)
                add_blocks(grad_k[part], torch.bmm(grad_scores.transpose(1, 2), query), piece, cols)
                tile = view(grad_q[part], piece, cols)
                tile.copy_(torch.bmm(grad_scores, key).mul_(ctx.scale).view(tile.shape))
            if grad_bias is not None:
                grad_bias += torch.autograd.grad(table_mask, table, grad_mask)[0]
        grad_bias = None if grad_bias is None else grad_bias.to(bias.dtype)
        return grad_q, grad_k.to(q.dtype), grad_v.to(q.dtype), grad_bias, None, None, None, None


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
