"""Tiles for neighborhood attention: how a map is cut so that sliding windows become dense matrix products.

Along one axis of n positions with dilation d, every d-th position belongs to one of d groups; inside a group of length
L the window is an ordinary one of K neighbors. A group is cut into tiles of T queries; all windows of a tile lie in one
block of about T + K - 1 keys. A tile is then a dense product of its queries with its block, in which the positions
outside of a query's own window are masked. Blocks of neighboring tiles overlap, so the copies of keys and values are
linear in the number of pixels, whatever K is. The two axes are cut independently.

With a stride s > 1 a tile is a number m of whole stride groups, and its block, K + (m - 1) s keys, is placed where its
windows are: no key is padded, and with m = 1 nothing is masked.

Sizes may be symbolic (torch.compile, torch.export), so that all tiles of an axis are one batch of equal size, padded at
both ends; `cpu_plan.Span` is the plan for plain ints, which fits exactly. Both place windows by `geometry`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import has_static_value

from backbones.ops._dispatch import Backend
from backbones.ops.attention import biased_attention
from backbones.ops.cache import shape_cache
from backbones.ops.neighborhood.geometry import bias_entry, group_lengths, key_range, window_start
from backbones.ops.neighborhood.reference import AttentionInputs, ProductInputs
from backbones.ops.sizes import static_size


class Axis(NamedTuple):
    """How one axis is cut. All lengths count positions of one group; ints, or symbolic ints while a graph is captured.

    Query slot u of tile t is position ``t * tile + u - lead`` of its group; key slot w of that tile's block is position
    ``t * step + w - halo``, after moving the block into the group if it is fitted. Slots outside of the group are
    padding.
    """

    size: int  # n, positions of the whole axis
    kernel: int  # K, window length
    dilation: int  # d, number of groups
    length: int  # L, positions of the longest group
    ragged: bool  # whether some groups may be one position shorter
    tile: int  # T, queries of a tile
    tiles: int  # number of tiles
    lead: int  # padded queries before the first position
    block: int  # keys of a block
    step: int  # distance between the starts of consecutive blocks
    halo: int  # padded keys before the first position
    stride: int = 1  # s, queries that share a window
    fitted: bool = False  # whether blocks that stick out of their group are moved into it

    @property
    def dense(self) -> bool:
        """Whether every query of a tile attends to its whole block."""
        return self.stride > 1 and self.tile == self.stride and self.block == self.kernel


def _tile_size(length: int, kernel: int, ragged: bool) -> int:
    """Queries per tile along an axis of `length` positions; at least K (K + 1 if ragged), so that windows that are
    clamped at a border always lie in the block of their tile."""
    if length <= kernel + 3:
        return length
    return max(kernel + int(ragged), 8 if length % 7 else 7)


def plan_axis(size: int, kernel: int, dilation: int, stride: int = 1, floor: int = 8) -> Axis:
    """Cut an axis of `size` positions for windows of `kernel` positions, `dilation` apart, one for every `stride`
    queries (all >= 1, kernel odd, stride at most kernel).

    `floor` matters for strides: attention over fewer queries along an axis is taken to be no faster. It is 8 for GPUs,
    whose kernels work on 64 rows of a matrix at a time.
    """
    if stride > 1:
        return _plan_strided(size, kernel, dilation, stride, floor)
    radius = kernel // 2
    length = (size + dilation - 1) // dilation
    if is_static(size):
        ragged = size % dilation != 0
        tile = _tile_size(length, kernel, ragged)
        if tile + radius >= length:  # one block
            return Axis(size, kernel, dilation, length, ragged, length, 1, 0, length, 1, 0)
        if 2 * tile >= length:  # two tiles, whose blocks start and end with the group
            tile = max((length + 1) // 2, radius + 1 + int(ragged))
            block = min(tile + radius, length)
            return Axis(size, kernel, dilation, length, ragged, tile, 2, 0, block, length - block, 0)
        around = radius
    else:
        # Fewer than K queries a tile: every map then has two tiles or more, and one graph covers all sizes (a dimension
        # that may be 1 would be specialised). The price is one more key on both sides of a block.
        ragged = dilation > 1
        tile = max(kernel - 1, 2)
        around = radius + 1
    tiles = (length + tile - 1) // tile
    # The padded queries are shared between both ends: the first and the last tile then keep enough real positions for
    # the clamped windows to fit into blocks that are placed uniformly.
    lead = (tiles * tile - length + 1) // 2
    return Axis(size, kernel, dilation, length, ragged, tile, tiles, lead, tile + 2 * around, tile, lead + around)


def _plan_strided(size: int, kernel: int, dilation: int, stride: int, floor: int) -> Axis:
    """`plan_axis` for a stride above 1."""
    length = (size + dilation - 1) // dilation
    halo = kernel // 2 - stride // 2
    if not is_static(size):
        # At most K queries, and one tile more where it is K, so that every map has two tiles or more.
        tile = kernel // stride * stride
        tiles = length // tile + 1 if tile == kernel else (length + tile - 1) // tile
        block = kernel + tile - stride
        return Axis(size, kernel, dilation, length, dilation > 1, tile, tiles, 0, block, tile, halo, stride, True)
    ragged = size % dilation != 0
    if stride == kernel and size % (dilation * kernel) == 0:
        return Axis(size, kernel, dilation, length, ragged, kernel, length // kernel, 0, kernel, kernel, 0, stride)
    plans = [Axis(size, kernel, dilation, length, ragged, length, 1, 0, length, 1, 0, stride)]
    half = (length + 1) // 2
    start = min(key_range(half, 1, length, kernel, stride)[0], length - kernel - int(ragged))
    block = max(key_range(0, half, length, kernel, stride)[1], length - start)
    if block < length:  # two tiles, whose blocks start and end with the group
        plans.append(Axis(size, kernel, dilation, length, ragged, half, 2, 0, block, length - block, 0, stride))
    for tile in range(stride, max(kernel, 8) + 4, stride):
        tiles, block = (length + tile - 1) // tile, kernel + tile - stride
        if block <= length:
            plans.append(Axis(size, kernel, dilation, length, ragged, tile, tiles, 0, block, tile, halo, stride, True))

    def cost(plan: Axis) -> int:
        """Queries plus 3 (what copying a key costs) times keys, and a quarter of it for a mask."""
        return plan.tiles * (max(plan.tile, floor) + 3) * plan.block * (4 if plan.dense else 5)

    return min(plans, key=cost)


def is_static(size: int) -> bool:
    """Whether a size is a number, and not a symbol of a graph with dynamic sizes."""
    return isinstance(size, int) and has_static_value(size)


def _is_uniform(axis: Axis) -> bool:
    """Whether blocks are equal distances apart, so that they can be cut by padding and unfolding."""
    return is_static(axis.size) and not axis.fitted


def axis_offsets(axis: Axis, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of one axis, tile by tile.

    Returns:
        query position (G, tiles, T, 1), window start (G, tiles, T, 1) and key position (1 or G, tiles, 1, block), where
        G is 1 if all groups have the same length and the dilation otherwise. Padded queries repeat the nearest real
        one.
    """

    def count(n: int) -> Tensor:
        return torch.arange(n, device=device)

    groups = axis.dilation if axis.ragged else 1
    length = group_lengths(axis.size, axis.dilation, count(groups)).view(-1, 1, 1, 1)
    tile = count(axis.tiles).view(1, -1, 1, 1)
    query = tile * axis.tile + count(axis.tile).view(1, 1, -1, 1) - axis.lead
    query = torch.minimum(query.clamp(min=0), length - 1)
    start = window_start(query, length, axis.kernel, axis.stride)
    first = tile * axis.step - axis.halo
    if axis.fitted:
        # A block longer than its group starts before it.
        first = torch.minimum(first.clamp(min=0), length - axis.block)
    return query, start, first + count(axis.block).view(1, 1, 1, -1)


@shape_cache(256)
def bias_index(axis: Axis, device: torch.device) -> Tensor:
    """`bias_entry` of every (query, key) of every tile: (G, tiles, T, block)."""
    return bias_entry(*axis_offsets(axis, device), axis.kernel)


@shape_cache(256)
def slot_index(axis: Axis, device: torch.device) -> Tensor:
    """Window slot of every (query, key) of every tile: (G, tiles, T, block), 0..K-1, or K if not in the window."""
    _, start, key = axis_offsets(axis, device)
    inside = (key >= start) & (key < start + axis.kernel)
    return torch.where(inside, key - start, axis.kernel)


@shape_cache(256)
def key_index(axis: Axis, device: torch.device) -> Tensor:
    """Index on the axis of every key of every block: (d, tiles, block)."""
    return _map_index(axis, axis_offsets(axis, device)[2].squeeze(2))


def cut_queries(x: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """(B, H, W, heads, C) -> (B, G_h, G_w, tiles_h, tiles_w, heads, T_h * T_w, C): tiles of every dilation group."""
    if is_static(rows.size) and is_static(cols.size):
        x = _pad(_group(x, rows, cols), rows.lead, cols.lead, rows.tiles * rows.tile, cols.tiles * cols.tile)
        x = x.unflatten(4, (cols.tiles, cols.tile)).unflatten(3, (rows.tiles, rows.tile)).transpose(4, 5)
    else:
        i, j = (_map_index(axis, axis_offsets(axis, x.device)[0].squeeze(3)) for axis in (rows, cols))
        x = x[:, i[:, None, :, None, :, None], j[None, :, None, :, None, :]]
    return x.permute(0, 1, 2, 3, 4, 7, 5, 6, 8).flatten(6, 7)


def cut_keys(x: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """(B, H, W, heads, C) -> (B, G_h, G_w, tiles_h, tiles_w, heads, block_h * block_w, C): overlapping key blocks."""
    if _is_uniform(rows) and _is_uniform(cols):
        spans = [(axis.tiles - 1) * axis.step + axis.block for axis in (rows, cols)]
        x = _pad(_group(x, rows, cols), rows.halo, cols.halo, *spans)
        x = x.unfold(3, rows.block, rows.step).unfold(4, cols.block, cols.step)
        return x.permute(0, 1, 2, 3, 4, 5, 7, 8, 6).flatten(6, 7)
    if is_static(rows.size) and is_static(cols.size):
        # One axis after the other: the gradient of each is a plain index_add.
        for dim, axis in ((1, rows), (4, cols)):
            index = key_index(axis, x.device)
            x = x.index_select(dim, index.flatten()).unflatten(dim, index.shape)
        return x.permute(0, 1, 4, 2, 5, 7, 3, 6, 8).flatten(6, 7)
    i, j = (_map_index(axis, axis_offsets(axis, x.device)[2].squeeze(2)) for axis in (rows, cols))
    x = x[:, i[:, None, :, None, :, None], j[None, :, None, :, None, :]]
    return x.permute(0, 1, 2, 3, 4, 7, 5, 6, 8).flatten(6, 7)


def join_queries(x: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """The inverse of `cut_queries`; drops the padding."""
    x = x.unflatten(6, (rows.tile, cols.tile))
    if not (is_static(rows.size) and is_static(cols.size)):
        (gh, th, uh), (gw, tw, uw) = _tile_index(rows, x.device), _tile_index(cols, x.device)
        x = x.permute(0, 1, 2, 3, 4, 6, 7, 5, 8)
        return x[:, gh[:, None], gw[None], th[:, None], tw[None], uh[:, None], uw[None]]
    x = x.permute(0, 1, 2, 3, 6, 4, 7, 5, 8).flatten(5, 6).flatten(3, 4)
    x = x[:, :, :, rows.lead : rows.lead + rows.length, cols.lead : cols.lead + cols.length]
    x = x.permute(0, 3, 1, 4, 2, 5, 6).flatten(3, 4).flatten(1, 2)
    return x[:, : rows.size, : cols.size] if rows.ragged or cols.ragged else x


def _group(x: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """(B, H, W, heads, C) -> (B, G_h, G_w, L_h, L_w, heads, C): one map for each pair of dilation groups; a view if no
    group is shorter than another. Groups that are one shorter get a zero at their end."""
    if rows.ragged or cols.ragged:
        pad_h, pad_w = rows.length * rows.dilation - rows.size, cols.length * cols.dilation - cols.size
        x = F.pad(x, (0, 0, 0, 0, 0, pad_w, 0, pad_h))
    x = x.unflatten(1, (rows.length, rows.dilation)).unflatten(3, (cols.length, cols.dilation))
    return x.permute(0, 2, 4, 1, 3, 5, 6)


def _pad(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Zero-pad dimensions 3 and 4 to a height and a width, with `top` rows before and `left` columns before."""
    bottom, right = height - top - x.shape[3], width - left - x.shape[4]
    return F.pad(x, (0, 0, 0, 0, left, right, top, bottom)) if top or bottom or left or right else x


def _map_index(axis: Axis, position: Tensor) -> Tensor:
    """Positions in a group (1 or G, ...) -> indices of the axis (G, ...), of the nearest valid position."""
    group = torch.arange(axis.dilation, device=position.device).view(-1, *[1] * (position.ndim - 1))
    last = (axis.size - 1 - group) // axis.dilation
    return torch.minimum(position.clamp(min=0), last) * axis.dilation + group


def _tile_index(axis: Axis, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Group, tile and query slot of every position of the axis, each (n,)."""
    i = torch.arange(axis.size, device=device)
    slot = i // axis.dilation + axis.lead
    return i % axis.dilation, slot // axis.tile, slot % axis.tile


def tile_bias(table: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """Additive mask of every tile from a position table.

    Args:
        table: (heads, 2K_h - 1, 2K_w - 1), key minus query + K - 1, rows first.

    Returns:
        (Gh, Gw, tiles_h, tiles_w, heads, Th * Tw, block_h * block_w), -inf outside of a query's window; Gh and Gw are 1
        if all groups of both axes have the same length.
    """
    # Rows, then columns: both passes are contiguous copies, and their gradient is a plain index_add.
    ih, iw = bias_index(rows, table.device), bias_index(cols, table.device)
    table = F.pad(table, (0, 1, 0, 1), value=float("-inf"))
    bias = table.index_select(1, ih.flatten()).index_select(2, iw.flatten())
    bias = bias.view(-1, *ih.shape, *iw.shape).permute(1, 5, 2, 6, 0, 3, 7, 4, 8).flatten(7, 8).flatten(5, 6)
    if rows.ragged or cols.ragged:
        bias = bias.expand(rows.dilation, cols.dilation, -1, -1, -1, -1, -1)
    return bias


def tile_weights(weights: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """Spread window weights over the keys of their block.

    Args:
        weights: (B, Gh, Gw, tiles_h, tiles_w, heads, Th * Tw, K_h * K_w), tiles of the queries' weights.

    Returns:
        (B, Gh, Gw, tiles_h, tiles_w, heads, Th * Tw, block_h * block_w), zero outside of the windows.
    """
    sh, sw = slot_index(rows, weights.device), slot_index(cols, weights.device)
    inside = (sh < rows.kernel)[:, None, :, None, :, None, :, None] & (sw < cols.kernel)[
        None, :, None, :, None, :, None
    ]
    slot = sh[:, None, :, None, :, None, :, None] * cols.kernel + sw[None, :, None, :, None, :, None]
    slot = torch.where(inside, slot, 0).flatten(6, 7).flatten(4, 5)
    inside = inside.flatten(6, 7).flatten(4, 5)
    slot = slot[None, :, :, :, :, None].expand(*weights.shape[:-1], -1)
    return torch.where(inside[None, :, :, :, :, None], weights.gather(-1, slot), 0.0)


class TiledAttention(Backend):
    """One dense product over padded tiles, of ordinary operators."""

    name = "tiled"

    def run(self, inputs: AttentionInputs) -> Tensor:
        q, k, v, bias, window, scale = inputs
        floor = 6 if q.device.type == "cpu" else 8
        rows, cols = (plan_axis(static_size(size), *axis, floor) for size, axis in zip(q.shape[1:3], zip(*window)))
        q, k, v = cut_queries(q, rows, cols), cut_keys(k, rows, cols), cut_keys(v, rows, cols)
        if bias is None and rows.dense and cols.dense:
            out = F.scaled_dot_product_attention(*(x.flatten(1, 4).flatten(0, 1) for x in (q, k, v)), scale=scale)
            return join_queries(out.reshape(q.shape), rows, cols)
        if bias is None:
            bias = q.new_zeros(1, 2 * rows.kernel - 1, 2 * cols.kernel - 1)
        mask = tile_bias(bias.to(q.dtype), rows, cols)
        mask = mask.expand(*mask.shape[:4], q.shape[5], -1, -1)
        # Where all groups share one mask they go to the batch, on which the mask is broadcast without a copy.
        split = 0 if rows.ragged or cols.ragged else 2
        out = biased_attention(
            *(x.flatten(1 + split, 5).flatten(0, split) for x in (q, k, v)),
            mask.flatten(split, 4).flatten(0, split - 1) if split else mask.flatten(0, 4)[None],
            scale=scale,
        )
        return join_queries(out.reshape(q.shape), rows, cols)


class TiledProduct(Backend):
    """The same for given weights."""

    name = "tiled"

    def run(self, inputs: ProductInputs) -> Tensor:
        attn, v, window = inputs
        rows, cols = (plan_axis(static_size(size), *axis) for size, axis in zip(v.shape[2:4], zip(*window[:2])))
        attn, v = attn.permute(0, 2, 3, 1, 4), v.permute(0, 2, 3, 1, 4)
        weights = tile_weights(cut_queries(attn, rows, cols), rows, cols)
        return join_queries(weights @ cut_keys(v, rows, cols), rows, cols).permute(0, 3, 1, 2, 4)
