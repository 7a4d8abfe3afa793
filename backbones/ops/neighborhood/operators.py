"""Neighborhood attention: every pixel attends to the K x K pixels nearest to it, optionally dilated or strided.

Sources: Hassani et al., "Neighborhood Attention Transformer", CVPR 2023 (arXiv 2204.07143), section 3; Hassani and Shi,
"Dilated Neighborhood Attention Transformer", arXiv 2209.15001, section 3; Hassani et al., "Generalized Neighborhood
Attention", arXiv 2504.16922, section 3 (the stride; natten's `na2d` is its reference); the product of given window
weights with the values is ContMix's (Lou and Yu, "OverLoCK", CVPR 2025, arXiv 2502.20087, section 3.3), that of queries
with the keys TransNeXt's (Shi, CVPR 2024, arXiv 2311.17132, section 3.1). Which keys a window holds is defined in
`geometry`.
"""

from __future__ import annotations

import torch
from timm.layers import register_notrace_function
from torch import Tensor

from backbones.ops._dispatch import Operator
from backbones.ops.neighborhood.cpu import CpuAttention, CpuProduct, CpuScores
from backbones.ops.neighborhood.geometry import Pair, Window
from backbones.ops.neighborhood.natten import NattenAttention
from backbones.ops.neighborhood.reference import (
    AttentionInputs,
    ProductInputs,
    ReferenceAttention,
    ReferenceProduct,
    ReferenceScores,
    ScoreInputs,
    window_bias,
)
from backbones.ops.neighborhood.tiled import TiledAttention, TiledProduct
from backbones.ops.neighborhood.triton import TritonAttention, TritonProduct, TritonScores

# The preferred first.
ATTENTION = Operator(
    "neighborhood_attention",
    [NattenAttention(), TritonAttention(), CpuAttention(), TiledAttention(), ReferenceAttention()],
)
PRODUCT = Operator("neighborhood_av", [TritonProduct(), CpuProduct(), TiledProduct(), ReferenceProduct()])
SCORES = Operator("neighborhood_qk", [TritonScores(), CpuScores(), ReferenceScores()])


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
        backend: "natten" (the kernels of the natten package, without bias), "triton" (kernels for CUDA devices, which
            torch.compile takes as they are), "cpu" (dense products over views of tiles that fit exactly, with a
            hand-written backward; eager mode only), "tiled" (one dense product over padded tiles; ordinary operators,
            so it can be traced), "reference" (gathers K * K keys for each query), or "auto": the first of them that
            suits, see `explain`.
        stride: s <= K, one for both axes or (s_h, s_w); s queries share a window (1 sliding, K blocked).

    Returns:
        (B, H, W, heads, head_dim).

    Raises:
        ValueError: on shapes that do not fit, an even kernel size, a stride above it, a map smaller than K * d on an
            axis, or inputs that the asked for backend does not take.
        ImportError: if natten or triton is asked for and not installed.
    """
    _check_map(q, "q")
    if k.shape != q.shape or v.shape != q.shape:
        raise ValueError(
            f"q, k and v must have one shape, got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )
    window = Window.checked(q.shape[1], q.shape[2], kernel_size, dilation, stride)
    if bias is not None:
        _check_table(bias, "bias", window, q.shape[3])
    q, k, v = _autocast(q, k, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return ATTENTION(AttentionInputs(q, k, v, bias, window, scale), backend)


@register_notrace_function
def neighborhood_av(attn: Tensor, v: Tensor, kernel_size: Pair, dilation: Pair = 1, backend: str = "auto") -> Tensor:
    """Apply given window weights to the values: out = sum over the window of attn * v.

    Args:
        attn: (B, heads, H, W, K_h * K_w), any weights, window slots in row-major order.
        v: (B, heads, H, W, C).
        kernel_size, dilation: as in `neighborhood_attention`.
        backend: "triton", "cpu", "tiled", "reference" or "auto", as in `neighborhood_attention`.

    Returns:
        (B, heads, H, W, C).

    Raises:
        ValueError: on shapes that do not fit, an even kernel size, a map smaller than K * d on an axis, or inputs that
            the asked for backend does not take.
        ImportError: if triton is asked for and not installed.
    """
    _check_map(v, "v")
    window = Window.checked(v.shape[2], v.shape[3], kernel_size, dilation)
    if tuple(attn.shape) != (*v.shape[:4], window.taps):
        expected = (*v.shape[:4], window.taps)
        raise ValueError(f"attn must have shape (B, heads, H, W, K * K) = {expected}, got {tuple(attn.shape)}.")
    attn, v = _autocast(attn, v)
    return PRODUCT(ProductInputs(attn, v, window), backend)


@register_notrace_function
def neighborhood_qk(q: Tensor, k: Tensor, kernel_size: Pair, dilation: Pair = 1, backend: str = "auto") -> Tensor:
    """The product of every query with each key of its window.

    Args:
        q, k: (B, heads, H, W, C).
        kernel_size, dilation: as in `neighborhood_attention`.
        backend: "triton", "cpu", "reference" or "auto", as in `neighborhood_attention`.

    Returns:
        (B, heads, H, W, K_h * K_w), window slots in row-major order.

    Raises:
        ValueError: on shapes that do not fit, an even kernel size, a map smaller than K * d on an axis, or inputs that
            the asked for backend does not take.
        ImportError: if triton is asked for and not installed.
    """
    _check_map(q, "q")
    if k.shape != q.shape:
        raise ValueError(f"q and k must have one shape, got {tuple(q.shape)} and {tuple(k.shape)}.")
    window = Window.checked(q.shape[2], q.shape[3], kernel_size, dilation)
    q, k = _autocast(q, k)
    return SCORES(ScoreInputs(q, k, window), backend)


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
    window = Window.checked(height, width, kernel_size, dilation, stride)
    _check_table(rpb, "rpb", window)
    return window_bias(rpb, height, width, window)


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast as autocast casts the operands of a matrix product."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) for t in tensors)


def _check_map(x: Tensor, name: str) -> None:
    if x.ndim != 5:
        raise ValueError(f"{name} must have 5 dimensions, got shape {tuple(x.shape)}.")


def _check_table(table: Tensor, name: str, window: Window, heads: int | None = None) -> None:
    expected = (2 * window.kernel[0] - 1, 2 * window.kernel[1] - 1)
    if table.ndim != 3 or tuple(table.shape[1:]) != expected or heads not in (None, table.shape[0]):
        expected = ("heads" if heads is None else heads, *expected)
        raise ValueError(f"{name} must have shape (heads, 2K - 1, 2K - 1) = {expected}, got {tuple(table.shape)}.")
