"""What the backends of the operators are given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from backbones.ops.neighborhood.geometry import Window


class AttentionInputs(NamedTuple):
    """softmax(scale * q @ k + bias) @ v over windows; q, k, v (B, H, W, heads, C), bias (heads, 2K - 1, 2K - 1)."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    window: Window
    scale: float


class ProductInputs(NamedTuple):
    """Window weights (B, heads, H, W, K * K) times values (B, heads, H, W, C)."""

    attn: Tensor
    v: Tensor
    window: Window


def window_bias(table: Tensor, height: int, width: int, window: Window) -> Tensor:
    """A position table (heads, 2K_h - 1, 2K_w - 1) at every window slot: (heads, H, W, K_h * K_w)."""
    (_, ih), (_, iw) = window.indices(height, width, table.device)
    bias = table.index_select(1, ih.flatten()).index_select(2, iw.flatten())
    return bias.view(-1, *ih.shape, *iw.shape).transpose(2, 3).flatten(3, 4)
