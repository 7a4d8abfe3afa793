"""Triton kernels of neighborhood attention and of window products, forward and backward.

A program works on one tile of TILE_H x TILE_W positions of one dilation group, for one head of one image. The keys of
the tile's windows are read in blocks of BLOCK_H x BLOCK_W keys, so that all products are dense and run on tensor cores;
(query, key) pairs outside of a window are masked. Softmax is computed online and its gradient from recomputed scores,
so that memory is linear in the number of pixels. For the gradients of keys and values a program takes a tile of keys
and reads the queries whose windows hold them. Nothing is summed with atomic operations: results are deterministic.

Window arithmetic is that of `geometry`: a query at position p of a group of `length` reads the KERNEL keys from
`_window_start` on. Maps are (B, H, W, heads, dim) with any strides but unit stride in the last dimension; a map's
strides are given in the order batch, row, column, head. Sizes are those of whole maps; names in capitals are
compile-time constants, pairs of which end in _H and _W.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)

# Sizes vary with every image; what they are divisible by does not make better code.
SIZES = ["height", "width", "heads", "tiles_h", "tiles_w"]


@triton.jit
def _window_start(position, length, KERNEL: tl.constexpr, STRIDE: tl.constexpr):
    """`geometry.window_start`."""
    leader = position // STRIDE * STRIDE + STRIDE // 2
    return tl.minimum(tl.maximum(leader - KERNEL // 2, 0), length - KERNEL)


@triton.jit
def _locate(height, width, heads, tiles_h, tiles_w, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
            TILE_H: tl.constexpr, TILE_W: tl.constexpr):  # fmt: skip
    """What this program works on: image, head, dilation group and its lengths, tile and its positions (TILE, 1)."""
    number = tl.program_id(0)
    tile_w = number % tiles_w
    number = number // tiles_w
    tile_h = number % tiles_h
    number = number // tiles_h
    group_w = number % DILATION_W
    number = number // DILATION_W
    group_h = number % DILATION_H
    number = number // DILATION_H
    head = number % heads
    image = (number // heads).to(tl.int64)
    length_h = (height - 1 - group_h) // DILATION_H + 1
    length_w = (width - 1 - group_w) // DILATION_W + 1
    member = tl.arange(0, TILE_H * TILE_W)
    position_h = (tile_h * TILE_H + member // TILE_W)[:, None]
    position_w = (tile_w * TILE_W + member % TILE_W)[:, None]
    return image, head, group_h, group_w, length_h, length_w, tile_h, tile_w, position_h, position_w


@triton.jit
def _inside(query_h, query_w, key_h, key_w, length_h, length_w, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
            STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr):  # fmt: skip
    """Slot of every key in the window of every query, rows and columns, and whether it is one.

    Queries and keys are positions in a group, shaped so that they broadcast.
    """
    slot_h = key_h - _window_start(query_h, length_h, KERNEL_H, STRIDE_H)
    slot_w = key_w - _window_start(query_w, length_w, KERNEL_W, STRIDE_W)
    inside = (slot_h >= 0) & (slot_h < KERNEL_H) & (slot_w >= 0) & (slot_w < KERNEL_W)
    return slot_h, slot_w, inside & (query_h < length_h) & (query_w < length_w)


@triton.jit
def _key_range(tile, length, TILE: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr):
    """First key of the windows of a tile of queries, and the one after the last."""
    last = tl.minimum((tile + 1) * TILE, length) - 1
    return _window_start(tile * TILE, length, KERNEL, STRIDE), _window_start(last, length, KERNEL, STRIDE) + KERNEL


@triton.jit
def _query_range(tile, length, TILE: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr):
    """First query whose window holds a key of a tile of keys, and the one after the last."""
    first, last = tile * TILE, tl.minimum((tile + 1) * TILE, length) - 1
    low = (first - KERNEL // 2 - STRIDE // 2 + STRIDE - 1) // STRIDE * STRIDE
    high = tl.minimum((last + KERNEL // 2 - STRIDE // 2) // STRIDE * STRIDE + STRIDE, length)
    # Clamped windows are those that start with the group or end with it.
    return tl.where(first < KERNEL, 0, low), tl.where(last >= length - KERNEL, length, high)


@triton.jit
def _pixel(position_h, position_w, group_h, group_w, step_h, step_w, DILATION_H: tl.constexpr,
           DILATION_W: tl.constexpr):  # fmt: skip
    """Offset in a map of positions in a group, for a distance of `step_h` between rows and `step_w` between columns."""
    return (group_h + position_h * DILATION_H) * step_h + (group_w + position_w * DILATION_W) * step_w


@triton.jit
def _load(x, position_h, position_w, channel, group_h, group_w, length_h, length_w, step_h, step_w, DIM: tl.constexpr,
          DILATION_H: tl.constexpr, DILATION_W: tl.constexpr):  # fmt: skip
    """Channels of a map at positions in a group, all shaped so that they broadcast; zero where there are none."""
    real = (position_h < length_h) & (position_w < length_w) & (channel < DIM)
    pixel = _pixel(position_h, position_w, group_h, group_w, step_h, step_w, DILATION_H, DILATION_W)
    return tl.load(x + pixel + channel, mask=real, other=0.0)


@triton.jit
def _scores(query, key, table, query_h, query_w, key_h, key_w, inside, scale, KERNEL_H: tl.constexpr,
            KERNEL_W: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Logits, in units of log 2, of rows of queries and columns of keys or the other way round; -inf outside."""
    scores = tl.dot(query, key, input_precision=PRECISION) * (scale * LOG2E)
    if BIAS:
        entry = (key_h - query_h + KERNEL_H - 1) * (2 * KERNEL_W - 1) + key_w - query_w + KERNEL_W - 1
        return scores + tl.load(table + entry, mask=inside, other=float("-inf")).to(tl.float32) * LOG2E
    return tl.where(inside, scores, float("-inf"))


@triton.jit(do_not_specialize=SIZES)
def attention_forward(
    q, k, v, table, out, lse,
    q_batch, q_row, q_col, q_head, k_batch, k_row, k_col, k_head, v_batch, v_row, v_col, v_head,
    height, width, heads, tiles_h, tiles_w, scale,
    DIM: tl.constexpr, WIDTH: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
    BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out (B, H, W, heads, DIM) = softmax(scale * q @ k + table) @ v, lse (B, heads, H, W) its log-sum-exp in base 2.

    WIDTH is DIM rounded up to a power of two, at least 16; `table` is (heads, 2K_h - 1, 2K_w - 1), contiguous.
    """
    image, head, group_h, group_w, length_h, length_w, tile_h, tile_w, query_h, query_w = _locate(
        height, width, heads, tiles_h, tiles_w, DILATION_H, DILATION_W, TILE_H, TILE_W
    )
    table += head * (2 * KERNEL_H - 1) * (2 * KERNEL_W - 1)
    k += image * k_batch + head * k_head
    v += image * v_batch + head * v_head

    channel = tl.arange(0, WIDTH)
    query = _load(q + image * q_batch + head * q_head, query_h, query_w, channel[None, :], group_h, group_w, length_h,
                  length_w, q_row, q_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
    first_h, end_h = _key_range(tile_h, length_h, TILE_H, KERNEL_H, STRIDE_H)
    first_w, end_w = _key_range(tile_w, length_w, TILE_W, KERNEL_W, STRIDE_W)

    l_i = tl.zeros([TILE_H * TILE_W], tl.float32)
    m_i = tl.full([TILE_H * TILE_W], float("-inf"), tl.float32)
    acc = tl.zeros([TILE_H * TILE_W, WIDTH], tl.float32)
    slot = tl.arange(0, BLOCK_H * BLOCK_W)
    for row in range(first_h, end_h, BLOCK_H):
        for col in range(first_w, end_w, BLOCK_W):
            key_h, key_w = row + slot // BLOCK_W, col + slot % BLOCK_W
            key = _load(k, key_h[None, :], key_w[None, :], channel[:, None], group_h, group_w, length_h, length_w,
                        k_row, k_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
            _, _, inside = _inside(query_h, query_w, key_h[None, :], key_w[None, :], length_h, length_w, KERNEL_H,
                                   KERNEL_W, STRIDE_H, STRIDE_W)  # fmt: skip
            scores = _scores(query, key, table, query_h, query_w, key_h[None, :], key_w[None, :], inside, scale,
                             KERNEL_H, KERNEL_W, BIAS, PRECISION)  # fmt: skip
            m_new = tl.maximum(m_i, tl.max(scores, 1))
            # No key of the window may have come yet.
            shift = tl.where(m_new == float("-inf"), 0.0, m_new)
            weights = tl.exp2(scores - shift[:, None])
            alpha = tl.exp2(m_i - shift)
            m_i = m_new
            l_i = l_i * alpha + tl.sum(weights, 1)
            value = _load(v, key_h[:, None], key_w[:, None], channel[None, :], group_h, group_w, length_h, length_w,
                          v_row, v_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
            acc = acc * alpha[:, None] + tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)

    l_i = tl.where(l_i == 0.0, 1.0, l_i)  # queries beyond the map
    known = (query_h < length_h) & (query_w < length_w)
    pixel = _pixel(query_h, query_w, group_h, group_w, width, 1, DILATION_H, DILATION_W)
    place = ((image * height * width + pixel) * heads + head) * DIM + channel[None, :]
    tl.store(out + place, (acc / l_i[:, None]).to(out.dtype.element_ty), mask=known & (channel[None, :] < DIM))
    sums = (image * heads + head) * height * width + pixel
    tl.store(lse + sums, (m_i + tl.log2(l_i))[:, None], mask=known)


@triton.jit(do_not_specialize=SIZES)
def attention_backward_queries(
    q, k, v, table, lse, grad, delta, grad_q, grad_table,
    q_batch, q_row, q_col, q_head, k_batch, k_row, k_col, k_head, v_batch, v_row, v_col, v_head,
    height, width, heads, tiles_h, tiles_w, scale,
    DIM: tl.constexpr, WIDTH: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
    BIAS: tl.constexpr, GRAD_BIAS: tl.constexpr, ENTRIES_H: tl.constexpr, ENTRIES_W: tl.constexpr,
    PRECISION: tl.constexpr, SUM_PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the queries, and of the table, a part for every program: (programs, 2K_h - 1, 2K_w - 1).

    `grad` is that of `out` and like it contiguous, `delta` (B, heads, H, W) the sum of grad * out over the channels.
    ENTRIES_H and ENTRIES_W are 2K - 1 rounded up to powers of two, at least 16.
    """
    image, head, group_h, group_w, length_h, length_w, tile_h, tile_w, query_h, query_w = _locate(
        height, width, heads, tiles_h, tiles_w, DILATION_H, DILATION_W, TILE_H, TILE_W
    )
    table += head * (2 * KERNEL_H - 1) * (2 * KERNEL_W - 1)
    k += image * k_batch + head * k_head
    v += image * v_batch + head * v_head

    channel = tl.arange(0, WIDTH)
    known = (query_h < length_h) & (query_w < length_w)
    real = known & (channel[None, :] < DIM)
    query = _load(q + image * q_batch + head * q_head, query_h, query_w, channel[None, :], group_h, group_w, length_h,
                  length_w, q_row, q_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
    pixel = _pixel(query_h, query_w, group_h, group_w, width, 1, DILATION_H, DILATION_W)
    place = ((image * height * width + pixel) * heads + head) * DIM + channel[None, :]
    grad_out = tl.load(grad + place, mask=real, other=0.0)
    sums = (image * heads + head) * height * width + pixel
    lse_i = tl.load(lse + sums, mask=known, other=0.0)
    mean = tl.load(delta + sums, mask=known, other=0.0)

    first_h, end_h = _key_range(tile_h, length_h, TILE_H, KERNEL_H, STRIDE_H)
    first_w, end_w = _key_range(tile_w, length_w, TILE_W, KERNEL_W, STRIDE_W)

    grad_query = tl.zeros([TILE_H * TILE_W, WIDTH], tl.float32)
    grad_entries = tl.zeros([ENTRIES_H, ENTRIES_W], tl.float32)
    slot = tl.arange(0, BLOCK_H * BLOCK_W)
    for row in range(first_h, end_h, BLOCK_H):
        for col in range(first_w, end_w, BLOCK_W):
            key_h, key_w = row + slot // BLOCK_W, col + slot % BLOCK_W
            key = _load(k, key_h[:, None], key_w[:, None], channel[None, :], group_h, group_w, length_h, length_w,
                        k_row, k_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
            value = _load(v, key_h[:, None], key_w[:, None], channel[None, :], group_h, group_w, length_h, length_w,
                          v_row, v_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
            _, _, inside = _inside(query_h, query_w, key_h[None, :], key_w[None, :], length_h, length_w, KERNEL_H,
                                   KERNEL_W, STRIDE_H, STRIDE_W)  # fmt: skip
            scores = _scores(query, tl.trans(key), table, query_h, query_w, key_h[None, :], key_w[None, :], inside,
                             scale, KERNEL_H, KERNEL_W, BIAS, PRECISION)  # fmt: skip
            weights = tl.exp2(scores - lse_i)
            grad_weights = tl.dot(grad_out, tl.trans(value), input_precision=PRECISION)
            grad_scores = weights * (grad_weights - mean)
            grad_query += tl.dot(grad_scores.to(key.dtype), key, input_precision=PRECISION)
            if GRAD_BIAS:
                # Entries differ by row and by column alone: sums over the pairs of one row distance and one column
                # distance are products with zeros and ones from the left and from the right.
                by_axis = tl.permute(tl.reshape(grad_scores, [TILE_H, TILE_W, BLOCK_H, BLOCK_W]), [0, 2, 1, 3])
                by_axis = tl.reshape(by_axis, [TILE_H * BLOCK_H, TILE_W * BLOCK_W])
                pair_h, pair_w = tl.arange(0, TILE_H * BLOCK_H), tl.arange(0, TILE_W * BLOCK_W)
                entry_h = row + pair_h % BLOCK_H - tile_h * TILE_H - pair_h // BLOCK_H + KERNEL_H - 1
                entry_w = col + pair_w % BLOCK_W - tile_w * TILE_W - pair_w // BLOCK_W + KERNEL_W - 1
                rows = (tl.arange(0, ENTRIES_H)[:, None] == entry_h[None, :]).to(tl.float32)
                cols = (entry_w[:, None] == tl.arange(0, ENTRIES_W)[None, :]).to(tl.float32)
                by_row = tl.dot(rows, by_axis, input_precision=SUM_PRECISION)
                grad_entries += tl.dot(by_row, cols, input_precision=SUM_PRECISION)

    tl.store(grad_q + place, (grad_query * scale).to(grad_q.dtype.element_ty), mask=real)
    if GRAD_BIAS:
        entry_h, entry_w = tl.arange(0, ENTRIES_H)[:, None], tl.arange(0, ENTRIES_W)[None, :]
        part = tl.program_id(0).to(tl.int64) * (2 * KERNEL_H - 1) * (2 * KERNEL_W - 1)
        tl.store(
            grad_table + part + entry_h * (2 * KERNEL_W - 1) + entry_w,
            grad_entries,
            mask=(entry_h < 2 * KERNEL_H - 1) & (entry_w < 2 * KERNEL_W - 1),
        )


@triton.jit(do_not_specialize=SIZES)
def attention_backward_keys(
    q, k, v, table, lse, grad, delta, grad_k, grad_v,
    q_batch, q_row, q_col, q_head, k_batch, k_row, k_col, k_head, v_batch, v_row, v_col, v_head,
    height, width, heads, tiles_h, tiles_w, scale,
    DIM: tl.constexpr, WIDTH: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
    BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values, contiguous (B, H, W, heads, DIM); arguments as in `attention_backward_queries`."""
    image, head, group_h, group_w, length_h, length_w, tile_h, tile_w, key_h, key_w = _locate(
        height, width, heads, tiles_h, tiles_w, DILATION_H, DILATION_W, TILE_H, TILE_W
    )
    table += head * (2 * KERNEL_H - 1) * (2 * KERNEL_W - 1)
    q += image * q_batch + head * q_head
    grad += (image * height * width * heads + head) * DIM
    first = (image * heads + head) * height * width

    channel = tl.arange(0, WIDTH)
    key = _load(k + image * k_batch + head * k_head, key_h, key_w, channel[None, :], group_h, group_w, length_h,
                length_w, k_row, k_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
    value = _load(v + image * v_batch + head * v_head, key_h, key_w, channel[None, :], group_h, group_w, length_h,
                  length_w, v_row, v_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
    first_h, end_h = _query_range(tile_h, length_h, TILE_H, KERNEL_H, STRIDE_H)
    first_w, end_w = _query_range(tile_w, length_w, TILE_W, KERNEL_W, STRIDE_W)

    grad_key = tl.zeros([TILE_H * TILE_W, WIDTH], tl.float32)
    grad_value = tl.zeros([TILE_H * TILE_W, WIDTH], tl.float32)
    slot = tl.arange(0, BLOCK_H * BLOCK_W)
    for row in range(first_h, end_h, BLOCK_H):
        for col in range(first_w, end_w, BLOCK_W):
            query_h, query_w = row + slot // BLOCK_W, col + slot % BLOCK_W
            query = _load(q, query_h[:, None], query_w[:, None], channel[None, :], group_h, group_w, length_h, length_w,
                          q_row, q_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
            grad_out = _load(grad, query_h[:, None], query_w[:, None], channel[None, :], group_h, group_w, length_h,
                             length_w, width * heads * DIM, heads * DIM, DIM, DILATION_H, DILATION_W)  # fmt: skip
            known = (query_h < length_h) & (query_w < length_w)
            sums = first + _pixel(query_h, query_w, group_h, group_w, width, 1, DILATION_H, DILATION_W)
            lse_i = tl.load(lse + sums, mask=known, other=0.0)
            mean = tl.load(delta + sums, mask=known, other=0.0)
            _, _, inside = _inside(query_h[None, :], query_w[None, :], key_h, key_w, length_h, length_w, KERNEL_H,
                                   KERNEL_W, STRIDE_H, STRIDE_W)  # fmt: skip
            scores = _scores(key, tl.trans(query), table, query_h[None, :], query_w[None, :], key_h, key_w, inside,
                             scale, KERNEL_H, KERNEL_W, BIAS, PRECISION)  # fmt: skip
            weights = tl.exp2(scores - lse_i[None, :])
            grad_value += tl.dot(weights.to(grad_out.dtype), grad_out, input_precision=PRECISION)
            grad_weights = tl.dot(value, tl.trans(grad_out), input_precision=PRECISION)
            grad_scores = weights * (grad_weights - mean[None, :])
            grad_key += tl.dot(grad_scores.to(query.dtype), query, input_precision=PRECISION)

    pixel = _pixel(key_h, key_w, group_h, group_w, width, 1, DILATION_H, DILATION_W)
    place = ((image * height * width + pixel) * heads + head) * DIM + channel[None, :]
    real = (key_h < length_h) & (key_w < length_w) & (channel[None, :] < DIM)
    tl.store(grad_k + place, (grad_key * scale).to(grad_k.dtype.element_ty), mask=real)
    tl.store(grad_v + place, grad_value.to(grad_v.dtype.element_ty), mask=real)
