"""Neighborhood attention and window products on CPU, over views of tiles, with a hand-written backward.

For eager mode. Tiles fit the map exactly, so nothing is padded. Along an axis a dilation group of L positions is cut
into one tile at either border, where windows are clamped, and equal tiles between them (`cpu_plan.split`). All inner
tiles of all groups then share one mask, or need none where a stride makes their queries share one window; the two tiles
of the borders, with a mask each, are a view like any other. So a map is mostly four jobs (border or inner tiles on the
row axis times the same on the column axis), each a batch of equal dense attention problems: on small maps the number of
operator calls bounds the time, not their arithmetic. The queries and the overlapping key blocks of a job are views of
the (B, H, W, heads, C) map; a job is computed in chunks whose scores stay in the cache. The backward pass recomputes
the scores, so nothing larger than the inputs is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from backbones._compat import softmax_backward
from backbones.ops._dispatch import Backend, no_capture_reasons
from backbones.ops.autocast import backward_without_autocast
from backbones.ops.cache import shape_cache
from backbones.ops.neighborhood.cpu_plan import Span, chunks, jobs
from backbones.ops.neighborhood.geometry import bias_entry
from backbones.ops.neighborhood.reference import AttentionInputs, ProductInputs, ScoreInputs


def view(x: Tensor, rows: Span, cols: Span, keys: bool = False) -> Tensor:
    """The positions of a job's queries or keys: (B, H, W, heads, C) -> (B, Gh, th, Gw, tw, heads, Nh, Nw, C), no copy.

    Gh, Gw count groups, th, tw tiles, and Nh, Nw the queries of a tile or the keys of its block. Blocks overlap.
    """
    batch, _, _, heads, dim = x.shape
    sb, sh, sw, s_heads, s_dim = x.stride()
    dh, dw = sh * rows.dilation, sw * cols.dilation
    if keys:
        first = sh * rows.group + dh * rows.key + sw * cols.group + dw * cols.key
        step_h, step_w, nh, nw = dh * rows.key_step, dw * cols.key_step, rows.block, cols.block
    else:
        first = sh * rows.group + dh * rows.query + sw * cols.group + dw * cols.query
        step_h, step_w, nh, nw = dh * rows.query_step, dw * cols.query_step, rows.tile, cols.tile
    return x.as_strided(
        (batch, rows.groups, rows.tiles, cols.groups, cols.tiles, heads, nh, nw, dim),
        (sb, sh, step_h, sw, step_w, s_heads, dh, dw, s_dim),
        x.storage_offset() + first,
    )


def add_blocks(x: Tensor, blocks: Tensor, rows: Span, cols: Span) -> None:
    """Add the blocks (tiles * heads, Nh * Nw, C) of a job to the map (B, H, W, heads, C) that they were cut from."""
    target = view(x, rows, cols, keys=True)
    blocks = blocks.view(target.shape)
    # Blocks of neighboring tiles overlap; those that are `every` tiles apart do not.
    every_h = min(-(-rows.block // rows.key_step), rows.tiles)
    every_w = min(-(-cols.block // cols.key_step), cols.tiles)
    if every_h == every_w == 1:
        target.add_(blocks)
        return
    for i, j in product(range(every_h), range(every_w)):
        target[:, :, i::every_h, :, j::every_w].add_(blocks[:, :, i::every_h, :, j::every_w])


@shape_cache(256)
def table_rows(span: Span, device: torch.device) -> Tensor:
    """`bias_entry` of every query and key: (distinct tiles * tile * block,)."""
    key = torch.arange(span.block, device=device)
    start = torch.tensor(span.offsets, device=device).unsqueeze(1)
    tiles = torch.arange(span.masks, device=device).view(-1, 1, 1)
    query = span.query - span.key + tiles * (span.query_step - span.key_step)
    query = query + torch.arange(span.tile, device=device).unsqueeze(1)
    return bias_entry(query, start, key, span.kernel).flatten()


@shape_cache(256)
def one_hot_rows(span: Span, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`table_rows` as a matrix (2K - 1, distinct tiles * tile * block) of ones and zeros."""
    entries = torch.arange(2 * span.kernel - 1, device=device).unsqueeze(1)
    return (table_rows(span, device) == entries).to(dtype)


def job_mask(table: Tensor, rows: Span, cols: Span) -> Tensor:
    """Additive mask of a job from a position table: (th, 1, tw, heads, Th * Tw, Nh * Nw), -inf outside of windows.

    th and tw are 1 where all tiles of the span are alike.
    """
    ih, iw = table_rows(rows, table.device), table_rows(cols, table.device)
    table = F.pad(table, (0, 1, 0, 1), value=float("-inf"))
    mask = table.index_select(1, ih).index_select(2, iw)
    mask = mask.view(-1, rows.masks, rows.tile, rows.block, cols.masks, cols.tile, cols.block)
    return mask.permute(1, 4, 0, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).unsqueeze(1)


def job_table(mask: Tensor, rows: Span, cols: Span) -> Tensor:
    """The transpose of `job_mask`, summing the mask's entries at their place of the table: (heads, 2K - 1, 2K - 1)."""
    th, _, tw, heads = mask.shape[:4]
    mask = mask.view(th, tw, heads, rows.tile, cols.tile, rows.block, cols.block).permute(2, 0, 3, 5, 1, 4, 6)
    mask = mask.reshape(heads, th * rows.tile * rows.block, tw * cols.tile * cols.block)
    return one_hot_rows(rows, mask.dtype, mask.device) @ mask @ one_hot_rows(cols, mask.dtype, mask.device).T


def attention_mask(bias: Tensor | None, rows: Span, cols: Span, like: Tensor) -> Tensor | None:
    """`job_mask` of a table or of none; None where nothing is added and nothing masked."""
    if bias is None:
        if rows.dense and cols.dense:
            return None
        bias = like.new_zeros(1, 2 * rows.kernel - 1, 2 * cols.kernel - 1)
    return job_mask(bias, rows, cols)


def of_piece(mask: Tensor, piece: Span, rows: Span) -> Tensor:
    """The part of a job's mask for a piece of its row span."""
    if mask.shape[0] == piece.tiles or mask.shape[0] == 1:
        return mask
    first = (piece.query - rows.query) // rows.query_step
    return mask[first : first + piece.tiles]


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, tiles: torch.Size) -> Tensor:
    """softmax(query @ key + mask): (tiles * heads, Th * Tw, Nh * Nw), with `tiles` as (B, Gh, th, Gw, tw, heads)."""
    scores = torch.bmm(query, key.transpose(1, 2))
    if mask is not None:
        scores.view(*tiles, *scores.shape[1:]).add_(mask)
    return torch.softmax(scores, -1)


def window_views(dense: Tensor, slots: Tensor, rows: Span, cols: Span) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of views of the same weights, (B, Gh, th, Gw, tw, heads, u, w, K_h, K_w), for rectangles of queries.

    The first is of dense weights (B, Gh, th, Gw, tw, heads, Th, Tw, Nh, Nw), the second of those of window slots
    (B, Gh, th, Gw, tw, heads, Th, Tw, K_h, K_w).
    """
    *tiles, tile_h, tile_w, key_h, key_w = dense.stride()
    for (u, row, down), (w, col, right) in product(rows.segments(), cols.segments()):
        part = slots[..., u, w, :, :]
        window = dense.as_strided(
            part.shape,
            (*tiles, tile_h + down * key_h, tile_w + right * key_w, key_h, key_w),
            dense.storage_offset() + u.start * tile_h + row * key_h + w.start * tile_w + col * key_w,
        )
        yield window, part


def spread(attn: Tensor, rows: Span, cols: Span, dtype: torch.dtype) -> Tensor:
    """Window weights (B, H, W, heads, K * K) of a job as dense ones (tiles * heads, Th * Tw, Nh * Nw)."""
    slots = view(attn, rows, cols).unflatten(-1, (rows.kernel, cols.kernel))
    dense = torch.zeros(*slots.shape[:8], rows.block, cols.block, dtype=dtype, device=attn.device)
    for window, part in window_views(dense, slots, rows, cols):
        window.copy_(part)
    return dense.flatten(8, 9).flatten(6, 7).flatten(0, 5)


def _flat(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, Gh, th, Gw, tw, heads, Nh, Nw, C) -> (tiles * heads, Nh * Nw, C), always a copy."""
    flat = torch.empty(x.shape, dtype=dtype, device=x.device).copy_(x)
    return flat.view(-1, x.shape[6] * x.shape[7], x.shape[8])


def _sum_dtype(x: Tensor) -> torch.dtype:
    """The type of sums over many windows: float32 for lower precisions."""
    return torch.promote_types(x.dtype, torch.float32)


class _Attention(torch.autograd.Function):
    """softmax(scale * q @ k + bias) @ v; q, k, v (B, H, W, heads, C), bias (heads, 2K - 1, 2K - 1) or None."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel, dilation, stride, scale: float) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        dtype = _sum_dtype(q)
        table = None if bias is None else bias.to(dtype)
        for rows, cols in jobs(q.shape, kernel, dilation, stride):
            mask = attention_mask(table, rows, cols, q)
            for part, piece in chunks(q.shape[0], q.shape[3], rows, cols):
                tile = view(out[part], piece, cols)
                query = _flat(view(q[part], piece, cols), dtype).mul_(scale)
                key, value = (_flat(view(x[part], piece, cols, keys=True), dtype) for x in (k, v))
                own = None if mask is None else of_piece(mask, piece, rows)
                attn = attention_weights(query, key, own, tile.shape[:6])
                tile.copy_(torch.bmm(attn, value).view(tile.shape))
        return out

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.window, ctx.scale = inputs[4:7], inputs[7]

    @staticmethod
    @once_differentiable
    @backward_without_autocast
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        heads, dtype = q.shape[3], _sum_dtype(q)
        grad_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        grad_k, grad_v = (torch.zeros(q.shape, dtype=dtype, device=q.device) for _ in range(2))
        table = None if bias is None else bias.to(dtype)
        grad_bias = torch.zeros_like(table) if ctx.needs_input_grad[3] else None
        for rows, cols in jobs(q.shape, *ctx.window):
            mask = attention_mask(table, rows, cols, grad_k)
            grad_mask = None if grad_bias is None else torch.zeros_like(mask)
            for part, piece in chunks(q.shape[0], heads, rows, cols):
                query, grad_out = (_flat(view(x[part], piece, cols), dtype) for x in (q, grad))
                key, value = (_flat(view(x[part], piece, cols, keys=True), dtype) for x in (k, v))
                tile = view(grad_q[part], piece, cols)
                own = None if mask is None else of_piece(mask, piece, rows)
                attn = attention_weights(query.mul_(ctx.scale), key, own, tile.shape[:6])
                add_blocks(grad_v[part], torch.bmm(attn.transpose(1, 2), grad_out), piece, cols)
                grad_attn = torch.bmm(grad_out, value.transpose(1, 2))
                grad_scores = softmax_backward(grad_attn, attn, -1, dtype)
                if grad_mask is not None:
                    own = of_piece(grad_mask, piece, rows)
                    own += grad_scores.view(*tile.shape[:6], *own.shape[4:]).sum_to_size(own.shape)
                add_blocks(grad_k[part], torch.bmm(grad_scores.transpose(1, 2), query), piece, cols)
                torch.mul(torch.bmm(grad_scores, key).view(tile.shape), ctx.scale, out=tile)
            if grad_bias is not None:
                grad_bias += job_table(grad_mask, rows, cols)
        grad_bias = None if grad_bias is None else grad_bias.to(bias.dtype)
        return grad_q, grad_k.to(q.dtype), grad_v.to(q.dtype), grad_bias, None, None, None, None


class _Product(torch.autograd.Function):
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
                slots = view(grad_attn[part], piece, cols).unflatten(-1, (rows.kernel, cols.kernel))
                grad_dense = torch.bmm(grad_out, values.transpose(1, 2))
                grad_dense = grad_dense.view(*slots.shape[:8], rows.block, cols.block)
                for window, part in window_views(grad_dense, slots, piece, cols):
                    part.copy_(window)
        return grad_attn.permute(0, 3, 1, 2, 4), grad_v.to(v.dtype).permute(0, 3, 1, 2, 4), None, None


class _Scores(torch.autograd.Function):
    """(B, heads, H, W, C) twice -> (B, heads, H, W, K * K)."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, kernel, dilation) -> Tensor:
        q, k = q.permute(0, 2, 3, 1, 4), k.permute(0, 2, 3, 1, 4)
        out = torch.empty(*q.shape[:4], kernel[0] * kernel[1], dtype=q.dtype, device=q.device)
        for rows, cols in jobs(k.shape, kernel, dilation):
            for part, piece in chunks(k.shape[0], k.shape[3], rows, cols):
                query = _flat(view(q[part], piece, cols), q.dtype)
                keys = _flat(view(k[part], piece, cols, keys=True), q.dtype)
                slots = view(out[part], piece, cols).unflatten(-1, kernel)
                dense = torch.bmm(query, keys.transpose(1, 2)).view(*slots.shape[:8], rows.block, cols.block)
                for window, slot in window_views(dense, slots, piece, cols):
                    slot.copy_(window)
        return out.permute(0, 3, 1, 2, 4)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.kernel, ctx.dilation = inputs[2:]

    @staticmethod
    @once_differentiable
    @backward_without_autocast
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k = ctx.saved_tensors
        dtype = _sum_dtype(k)
        grad, q, k = (x.permute(0, 2, 3, 1, 4) for x in (grad, q, k))
        grad_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        grad_k = torch.zeros(k.shape, dtype=dtype, device=k.device)
        for rows, cols in jobs(k.shape, ctx.kernel, ctx.dilation):
            for part, piece in chunks(k.shape[0], k.shape[3], rows, cols):
                weights = spread(grad[part], piece, cols, dtype)
                tile = view(grad_q[part], piece, cols)
                keys = _flat(view(k[part], piece, cols, keys=True), dtype)
                tile.copy_(torch.bmm(weights, keys).view(tile.shape))
                query = _flat(view(q[part], piece, cols), dtype)
                add_blocks(grad_k[part], torch.bmm(weights.transpose(1, 2), query), piece, cols)
        return grad_q.permute(0, 3, 1, 2, 4), grad_k.to(k.dtype).permute(0, 3, 1, 2, 4), None, None


class _Cpu(Backend):
    name = "cpu"

    def unsuitable_reasons(self, inputs: AttentionInputs | ProductInputs | ScoreInputs) -> list[str]:
        return ["is for the CPU"] if inputs[0].device.type != "cpu" else no_capture_reasons()


class CpuAttention(_Cpu):
    def run(self, inputs: AttentionInputs) -> Tensor:
        q, k, v, bias, window, scale = inputs
        return _Attention.apply(q, k, v, None if bias is None else bias.to(q.dtype), *window, scale)


class CpuProduct(_Cpu):
    def run(self, inputs: ProductInputs) -> Tensor:
        return _Product.apply(inputs.attn, inputs.v, *inputs.window[:2])


class CpuScores(_Cpu):
    def run(self, inputs: ScoreInputs) -> Tensor:
        return _Scores.apply(inputs.q, inputs.k, *inputs.window[:2])
