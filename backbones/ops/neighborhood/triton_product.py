"""Triton kernels of the product of window weights with the values (ContMix), forward and backward.

As in `triton_attention` a program works on a tile of one dilation group and reads the keys of its windows in blocks.
The weights of a block are loaded as a dense (queries, keys) matrix with zeros outside of the windows, so that the
product runs on tensor cores and every weight is read once. Weights are (B, heads, H, W, K_h * K_w) and contiguous; maps
and names are as there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from backbones.ops.neighborhood.triton_attention import (
    SIZES,
    _inside,
    _key_range,
    _load,
    _locate,
    _pixel,
    _query_range,
)


@triton.jit(do_not_specialize=SIZES)
def product_forward(
    attn, v, out, v_batch, v_row, v_col, v_head, height, width, heads, tiles_h, tiles_w,
    DIM: tl.constexpr, WIDTH: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out (B, heads, H, W, DIM), contiguous: the values of every window, summed by its weights."""
    image, head, group_h, group_w, length_h, length_w, tile_h, tile_w, query_h, query_w = _locate(
        height, width, heads, tiles_h, tiles_w, DILATION_H, DILATION_W, TILE_H, TILE_W
    )
    v += image * v_batch + head * v_head
    first = (image * heads + head) * height * width

    channel = tl.arange(0, WIDTH)[None, :]
    query = first + _pixel(query_h, query_w, group_h, group_w, width, 1, DILATION_H, DILATION_W)
    first_h, end_h = _key_range(tile_h, length_h, TILE_H, KERNEL_H, 1)
    first_w, end_w = _key_range(tile_w, length_w, TILE_W, KERNEL_W, 1)

    acc = tl.zeros([TILE_H * TILE_W, WIDTH], tl.float32)
    slot = tl.arange(0, BLOCK_H * BLOCK_W)
    for row in range(first_h, end_h, BLOCK_H):
        for col in range(first_w, end_w, BLOCK_W):
            key_h, key_w = row + slot // BLOCK_W, col + slot % BLOCK_W
            slot_h, slot_w, inside = _inside(query_h, query_w, key_h[None, :], key_w[None, :], length_h, length_w,
                                             KERNEL_H, KERNEL_W, 1, 1)  # fmt: skip
            taps = query * (KERNEL_H * KERNEL_W) + slot_h * KERNEL_W + slot_w
            weights = tl.load(attn + taps, mask=inside, other=0.0)
            value = _load(v, key_h[:, None], key_w[:, None], channel, group_h, group_w, length_h, length_w, v_row,
                          v_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
            acc += tl.dot(weights, value, input_precision=PRECISION)

    real = (query_h < length_h) & (query_w < length_w) & (channel < DIM)
    tl.store(out + query * DIM + channel, acc.to(out.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=SIZES)
def product_backward_weights(
    v, grad, grad_attn, v_batch, v_row, v_col, v_head, g_batch, g_row, g_col, g_head,
    height, width, heads, tiles_h, tiles_w,
    DIM: tl.constexpr, WIDTH: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the weights: of every query's window, the values times the gradient of its output."""
    image, head, group_h, group_w, length_h, length_w, tile_h, tile_w, query_h, query_w = _locate(
        height, width, heads, tiles_h, tiles_w, DILATION_H, DILATION_W, TILE_H, TILE_W
    )
    v += image * v_batch + head * v_head
    first = (image * heads + head) * height * width

    channel = tl.arange(0, WIDTH)
    grad_out = _load(grad + image * g_batch + head * g_head, query_h, query_w, channel[None, :], group_h, group_w,
                     length_h, length_w, g_row, g_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
    query = first + _pixel(query_h, query_w, group_h, group_w, width, 1, DILATION_H, DILATION_W)
    first_h, end_h = _key_range(tile_h, length_h, TILE_H, KERNEL_H, 1)
    first_w, end_w = _key_range(tile_w, length_w, TILE_W, KERNEL_W, 1)

    slot = tl.arange(0, BLOCK_H * BLOCK_W)
    for row in range(first_h, end_h, BLOCK_H):
        for col in range(first_w, end_w, BLOCK_W):
            key_h, key_w = row + slot // BLOCK_W, col + slot % BLOCK_W
            value = _load(v, key_h[None, :], key_w[None, :], channel[:, None], group_h, group_w, length_h, length_w,
                          v_row, v_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
            grad_weights = tl.dot(grad_out, value, input_precision=PRECISION)
            slot_h, slot_w, inside = _inside(query_h, query_w, key_h[None, :], key_w[None, :], length_h, length_w,
                                             KERNEL_H, KERNEL_W, 1, 1)  # fmt: skip
            taps = query * (KERNEL_H * KERNEL_W) + slot_h * KERNEL_W + slot_w
            tl.store(grad_attn + taps, grad_weights.to(grad_attn.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def product_backward_values(
    attn, grad, grad_v, g_batch, g_row, g_col, g_head, height, width, heads, tiles_h, tiles_w,
    DIM: tl.constexpr, WIDTH: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the values, contiguous (B, heads, H, W, DIM): for a tile of keys, from the queries that hold them."""
    image, head, group_h, group_w, length_h, length_w, tile_h, tile_w, key_h, key_w = _locate(
        height, width, heads, tiles_h, tiles_w, DILATION_H, DILATION_W, TILE_H, TILE_W
    )
    grad += image * g_batch + head * g_head
    first = (image * heads + head) * height * width

    channel = tl.arange(0, WIDTH)[None, :]
    first_h, end_h = _query_range(tile_h, length_h, TILE_H, KERNEL_H, 1)
    first_w, end_w = _query_range(tile_w, length_w, TILE_W, KERNEL_W, 1)

    grad_value = tl.zeros([TILE_H * TILE_W, WIDTH], tl.float32)
    slot = tl.arange(0, BLOCK_H * BLOCK_W)
    for row in range(first_h, end_h, BLOCK_H):
        for col in range(first_w, end_w, BLOCK_W):
            query_h, query_w = row + slot // BLOCK_W, col + slot % BLOCK_W
            query = first + _pixel(query_h, query_w, group_h, group_w, width, 1, DILATION_H, DILATION_W)
            slot_h, slot_w, inside = _inside(query_h[None, :], query_w[None, :], key_h, key_w, length_h, length_w,
                                             KERNEL_H, KERNEL_W, 1, 1)  # fmt: skip
            taps = query[None, :] * (KERNEL_H * KERNEL_W) + slot_h * KERNEL_W + slot_w
            weights = tl.load(attn + taps, mask=inside, other=0.0)
            grad_out = _load(grad, query_h[:, None], query_w[:, None], channel, group_h, group_w, length_h, length_w,
                             g_row, g_col, DIM, DILATION_H, DILATION_W)  # fmt: skip
            grad_value += tl.dot(weights, grad_out, input_precision=PRECISION)

    real = (key_h < length_h) & (key_w < length_w) & (channel < DIM)
    key = first + _pixel(key_h, key_w, group_h, group_w, width, 1, DILATION_H, DILATION_W)
    tl.store(grad_v + key * DIM + channel, grad_value.to(grad_v.dtype.element_ty), mask=real)
