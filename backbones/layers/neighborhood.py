"""Neighborhood attention: every pixel attends to the K x K pixels nearest to it, optionally dilated or strided.

Sources: Hassani et al., "Neighborhood Attention Transformer", CVPR 2023 (arXiv 2204.07143), section 3; Hassani and Shi,
"Dilated Neighborhood Attention Transformer", arXiv 2209.15001, section 3; Hassani et al., "Generalized Neighborhood
Attention", arXiv 2504.16922, section 3 (the stride; natten's `na2d` is its reference); the product of given window
weights with the values is ContMix's (Lou and Yu, "OverLoCK", CVPR 2025, arXiv 2502.20087, section 3.3).

The window of a query slides with it and is clamped at the borders of the map (of its dilation group), so it always
holds exactly K x K keys. With a stride s > 1 the s queries of a stride group share the window of the one in their
middle, the leader: s = K is blocked attention (the window attention of Swin where the map divides), and s between 1 and
K lies between the two. One axis at a time, for a query at position i of n, dilation d and stride s <= K:

- its group holds the L positions g, g + d, g + 2d, ... with g = i mod d, of which the query is number p = i // d;
- its leader is number c = (p // s) * s + s // 2 of the group, or would be if the group were long enough;
- its window starts at b = min(max(c - K // 2, 0), L - K); slot t is the key at g + (b + t) * d;
- a position table is read at (b + t) - p + K - 1: the key minus the query, in units of d, plus K - 1. As s <= K, the
  window always holds the query itself, so that 2K - 1 entries are enough for every stride.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor

from backbones._compat import is_plain_eager
from backbones.layers import neighborhood_natten as natten
from backbones.layers import neighborhood_tiles as tiles
from backbones.layers import neighborhood_triton as triton
from backbones.layers.cache import shape_cache
from backbones.layers.neighborhood_strided import StridedAttention, StridedProduct

__all__ = [
    "neighborhood_attention",
    "neighborhood_attention_reference",
    "neighborhood_av",
    "neighborhood_av_reference",
    "neighborhood_bias",
    "use_backend",
]

Pair = int | tuple[int, int]

BACKENDS = ("auto", "strided", "tiled", "triton", "reference")

_default_backend = "auto"


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Make `backend` what "auto" stands for inside the block, for all neighborhood operators of the process.

    Raises:
        ValueError: on an unknown backend.
    """
    global _default_backend
    previous, _default_backend = _default_backend, _check_backend(backend)
    try:
        yield
    finally:
        _default_backend = previous


@register_notrace_function
def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: Pair,
    dilation: Pair = 1,
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
    stride: Pair = 1,
) -> Tensor:
    """Scaled dot-product attention of every pixel over its neighborhood.

    Args:
        q, k, v: (B, H, W, heads, head_dim); views of one qkv projection are welcome.
        kernel_size: K, odd, one for both axes or (K_h, K_w).
        dilation: d, one for both axes or (d_h, d_w).
        bias: (heads, 2K_h - 1, 2K_w - 1), added to the logits at key minus query + K - 1; None for no bias.
        scale: factor of q @ k; head_dim ** -0.5 if None.
        backend: "tiled" (one dense product over padded tiles; ordinary operators, so it can be traced), "strided" (the
            same over strided views with a hand-written backward; eager mode only), "triton" (kernels for CUDA devices,
            which torch.compile takes as they are), "natten" (the kernels of the natten package, without bias),
            "reference" (gathers K * K keys for each query), or "auto". That is strided on CPU in eager mode; on CUDA
            triton, or in eager mode natten, where it is installed with its CUDA kernels; and tiled where none of them
            takes the inputs, and in exported and traced graphs, which depend on no kernels of their own.
        stride: s <= K, one for both axes or (s_h, s_w); s queries share a window (1 sliding, K blocked).

    Returns:
        (B, H, W, heads, head_dim).

    Raises:
        ValueError: on shapes that do not fit, an even kernel size, a stride above it, a map smaller than K * d on an
            axis, a bias for natten, or inputs that the asked for kernels do not take.
        ImportError: if natten or triton is asked for and not installed.
    """
    _check_map(q, "q", 5)
    if k.shape != q.shape or v.shape != q.shape:
        raise ValueError(f"q, k and v must have one shape, got {_s(q)}, {_s(k)} and {_s(v)}.")
    kernel, steps, strides = _check_window(q.shape[1], q.shape[2], kernel_size, dilation, stride)
    if bias is not None and tuple(bias.shape) != (q.shape[3], 2 * kernel[0] - 1, 2 * kernel[1] - 1):
        expected = (q.shape[3], 2 * kernel[0] - 1, 2 * kernel[1] - 1)
        raise ValueError(f"bias must have shape (heads, 2K - 1, 2K - 1) = {expected}, got {_s(bias)}.")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    backend = _check_backend(backend, (*BACKENDS, "natten"))
    if backend == "reference":
        return neighborhood_attention_reference(q, k, v, kernel, steps, bias, scale, strides)
    q, k, v = _autocast(q, k, v)
    if backend == "auto":
        backend = _choose(q, k, v)
        if bias is None and q.is_cuda and is_plain_eager() and natten.runs_fast(q, k, v, kernel):
            backend = "natten"
    if backend == "natten":
        if bias is not None:
            raise ValueError('backend="natten" has no position bias: pass bias=None or use backend="auto".')
        return natten.attention(q, k, v, kernel, steps, strides, scale)
    if backend == "triton":
        triton.check(q, k, v)
        return triton.attention(q, k, v, bias, kernel, steps, strides, scale)
    if backend == "strided":
        bias = None if bias is None else bias.to(q.dtype)
        return StridedAttention.apply(q, k, v, bias, kernel, steps, strides, scale)

    floor = 6 if q.device.type == "cpu" else 8
    rows = tiles.plan_axis(_size(q.shape[1]), kernel[0], steps[0], strides[0], floor)
    cols = tiles.plan_axis(_size(q.shape[2]), kernel[1], steps[1], strides[1], floor)
    q = tiles.cut_queries(q, rows, cols)
    k = tiles.cut_keys(k, rows, cols)
    v = tiles.cut_keys(v, rows, cols)
    if bias is None and rows.dense and cols.dense:
        out = F.scaled_dot_product_attention(*(x.flatten(1, 4).flatten(0, 1) for x in (q, k, v)), scale=scale)
        return tiles.join_queries(out.reshape(q.shape), rows, cols)
    if bias is None:
        bias = q.new_zeros(1, 2 * kernel[0] - 1, 2 * kernel[1] - 1)
    mask = tiles.tile_bias(bias.to(q.dtype), rows, cols)
    mask = mask.expand(*mask.shape[:4], q.shape[5], -1, -1)
    # Where all groups share one mask they go to the batch, on which the mask is broadcast without a copy.
    split = 0 if rows.ragged or cols.ragged else 2
    out = F.scaled_dot_product_attention(
        q.flatten(1 + split, 5).flatten(0, split),
        k.flatten(1 + split, 5).flatten(0, split),
        v.flatten(1 + split, 5).flatten(0, split),
        attn_mask=mask.flatten(split, 4).flatten(0, split - 1) if split else mask.flatten(0, 4)[None],
        scale=scale,
    )
    out = out.reshape(q.shape)
    return tiles.join_queries(out, rows, cols)


@register_notrace_function
def neighborhood_av(attn: Tensor, v: Tensor, kernel_size: Pair, dilation: Pair = 1, backend: str = "auto") -> Tensor:
    """Apply given window weights to the values: out = sum over the window of attn * v.

    Args:
        attn: (B, heads, H, W, K_h * K_w), any weights, window slots in row-major order.
        v: (B, heads, H, W, C).
        kernel_size, dilation: as in `neighborhood_attention`.
        backend: "tiled", "strided", "triton", "reference" or "auto", as in `neighborhood_attention`.

    Returns:
        (B, heads, H, W, C).

    Raises:
        ValueError: on shapes that do not fit, an even kernel size, a map smaller than K * d on an axis, or inputs that
            the asked for kernels do not take.
        ImportError: if triton is asked for and not installed.
    """
    _check_map(v, "v", 5)
    kernel, steps, _ = _check_window(v.shape[2], v.shape[3], kernel_size, dilation)
    if tuple(attn.shape) != (*v.shape[:4], kernel[0] * kernel[1]):
        expected = (*v.shape[:4], kernel[0] * kernel[1])
        raise ValueError(f"attn must have shape (B, heads, H, W, K * K) = {tuple(expected)}, got {_s(attn)}.")
    backend = _check_backend(backend)
    if backend == "reference":
        return neighborhood_av_reference(attn, v, kernel, steps)

    attn, v = _autocast(attn, v)
    if backend == "auto":
        backend = _choose(attn, v)
    if backend == "strided":
        return StridedProduct.apply(attn, v, kernel, steps)
    if backend == "triton":
        triton.check(attn, v)
        return triton.product(attn, v, kernel, steps)

    rows = tiles.plan_axis(_size(v.shape[2]), kernel[0], steps[0])
    cols = tiles.plan_axis(_size(v.shape[3]), kernel[1], steps[1])
    attn, v = attn.permute(0, 2, 3, 1, 4), v.permute(0, 2, 3, 1, 4)
    weights = tiles.tile_weights(tiles.cut_queries(attn, rows, cols), rows, cols)
    out = weights @ tiles.cut_keys(v, rows, cols)
    return tiles.join_queries(out, rows, cols).permute(0, 3, 1, 2, 4)


@register_notrace_function
def neighborhood_bias(
    rpb: Tensor, height: int, width: int, kernel_size: Pair, dilation: Pair = 1, stride: Pair = 1
) -> Tensor:
    """Relative position bias of every window slot.

    Args:
        rpb: (heads, 2K_h - 1, 2K_w - 1), read at key minus query + K - 1, rows first.
        height, width: size of the map.
        kernel_size, dilation, stride: as in `neighborhood_attention`.

    Returns:
        (heads, H, W, K_h * K_w).

    Raises:
        ValueError: on a table of another shape, an even kernel size, a stride above it, or a map smaller than K * d on
            an axis.
    """
    kernel, steps, strides = _check_window(height, width, kernel_size, dilation, stride)
    if rpb.ndim != 3 or tuple(rpb.shape[1:]) != (2 * kernel[0] - 1, 2 * kernel[1] - 1):
        expected = f"(heads, {2 * kernel[0] - 1}, {2 * kernel[1] - 1})"
        raise ValueError(f"rpb must have shape (heads, 2K - 1, 2K - 1) = {expected}, got {_s(rpb)}.")
    _, ih = window_index(_size(height), kernel[0], steps[0], strides[0], rpb.device)
    _, iw = window_index(_size(width), kernel[1], steps[1], strides[1], rpb.device)
    bias = rpb.index_select(1, ih.flatten()).index_select(2, iw.flatten())
    return bias.view(-1, *ih.shape, *iw.shape).transpose(2, 3).flatten(3, 4)


@shape_cache(256)
def window_index(size: int, kernel: int, dilation: int, stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Window of every position of one axis.

    Returns:
        key position (n, K), bias row (n, K): where the keys of the window are and where their bias is in the table.
    """
    i = torch.arange(size, device=device).unsqueeze(1)
    slot = torch.arange(kernel, device=device).unsqueeze(0)
    group, p = i % dilation, i // dilation
    length = (size - 1 - group) // dilation + 1
    leader = p // stride * stride + stride // 2
    start = torch.minimum((leader - kernel // 2).clamp(min=0), length - kernel)
    return group + (start + slot) * dilation, start + slot - p + kernel - 1


def neighborhood_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: Pair,
    dilation: Pair = 1,
    bias: Tensor | None = None,
    scale: float | None = None,
    stride: Pair = 1,
) -> Tensor:
    """`neighborhood_attention` by its definition: gathers the K * K keys and values of each query. Slow; the oracle."""
    height, width = q.shape[1], q.shape[2]
    kernel, steps, strides = _check_window(height, width, kernel_size, dilation, stride)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    key_h, _ = window_index(_size(height), kernel[0], steps[0], strides[0], q.device)
    key_w, _ = window_index(_size(width), kernel[1], steps[1], strides[1], q.device)
    key_h, key_w = key_h[:, None, :, None], key_w[None, :, None, :]
    logits = torch.einsum("bijhc,bijxyhc->bhijxy", q * scale, k[:, key_h, key_w]).flatten(4)
    if bias is not None:
        logits = logits + neighborhood_bias(bias.to(q.dtype), height, width, kernel, steps, strides)
    attn = logits.softmax(-1).unflatten(-1, kernel)
    return torch.einsum("bhijxy,bijxyhc->bijhc", attn, v[:, key_h, key_w])


def neighborhood_av_reference(attn: Tensor, v: Tensor, kernel_size: Pair, dilation: Pair = 1) -> Tensor:
    """`neighborhood_av` by its definition: gathers the K * K values of each position. Slow; the oracle."""
    height, width = v.shape[2], v.shape[3]
    kernel, steps, strides = _check_window(height, width, kernel_size, dilation)
    key_h, _ = window_index(_size(height), kernel[0], steps[0], strides[0], v.device)
    key_w, _ = window_index(_size(width), kernel[1], steps[1], strides[1], v.device)
    values = v[:, :, key_h[:, None, :, None], key_w[None, :, None, :]]
    return torch.einsum("bhijxy,bhijxyc->bhijc", attn.unflatten(-1, kernel), values)


def _s(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _size(n: int) -> int:
    """A size as a number: under torch.jit.trace sizes are tensors, and the plan of a traced graph is fixed."""
    return int(n) if isinstance(n, Tensor) else n


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast as autocast casts the operands of a matrix product."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) for t in tensors)


def _choose(*tensors: Tensor) -> str:
    """What "auto" is for tensors in the type in which products are computed."""
    compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    if not (compiled or is_plain_eager()):
        return "tiled"
    if triton.runs_fast(*tensors):
        return "triton"
    return "strided" if tensors[0].device.type == "cpu" and not compiled else "tiled"


def _check_backend(backend: str, known: tuple[str, ...] = BACKENDS) -> str:
    if backend not in known:
        raise ValueError(f"backend must be one of {', '.join(known)}, got {backend!r}.")
    return _default_backend if backend == "auto" else backend


def _check_map(x: Tensor, name: str, ndim: int) -> None:
    if x.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {_s(x)}.")


def _check_window(
    height: int, width: int, kernel_size: Pair, dilation: Pair, stride: Pair = 1
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel size, dilation and stride as pairs, after checking that the windows fit into the map."""
    kernel, steps, strides = ((x, x) if isinstance(x, int) else tuple(x) for x in (kernel_size, dilation, stride))
    if len(kernel) != 2 or any(s < 1 or s % 2 == 0 for s in kernel):
        raise ValueError(f"kernel_size must be an odd positive number or a pair of them, got {kernel_size}.")
    if len(steps) != 2 or any(d < 1 for d in steps):
        raise ValueError(f"dilation must be a positive number or a pair of them, got {dilation}.")
    if len(strides) != 2 or any(not 1 <= s <= k for s, k in zip(strides, kernel)):
        raise ValueError(f"stride must be 1 to the kernel size {kernel_size}, or a pair of such numbers, got {stride}.")
    if height < kernel[0] * steps[0] or width < kernel[1] * steps[1]:
        needed = f"{kernel[0] * steps[0]} x {kernel[1] * steps[1]}"
        raise ValueError(
            f"a map of {height} x {width} is too small for kernel size {kernel[0]} x {kernel[1]} and dilation"
            f" {steps[0]} x {steps[1]}: pad it to at least {needed} or use a smaller dilation or kernel."
        )
    return kernel, steps, strides
