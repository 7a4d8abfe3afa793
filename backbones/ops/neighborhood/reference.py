"""What backends are given, and the operators by their definitions: every query's keys and values are gathered.

Slow; the other backends are tested by it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backbones.ops._dispatch import Backend
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


class ScoreInputs(NamedTuple):
    """Queries and keys, both (B, heads, H, W, C)."""

    q: Tensor
    k: Tensor
    window: Window


def window_bias(table: Tensor, height: int, width: int, window: Window) -> Tensor:
    """A position table (heads, 2K_h - 1, 2K_w - 1) at every window slot: (heads, H, W, K_h * K_w)."""
    (_, ih), (_, iw) = window.indices(height, width, table.device)
    bias = table.index_select(1, ih.flatten()).index_select(2, iw.flatten())
    return bias.view(-1, *ih.shape, *iw.shape).transpose(2, 3).flatten(3, 4)


class ReferenceAttention(Backend):
    name = "reference"

    def run(self, inputs: AttentionInputs) -> Tensor:
        q, k, v, bias, window, scale = inputs
        height, width = q.shape[1:3]
        (key_h, _), (key_w, _) = window.indices(height, width, q.device)
        key_h, key_w = key_h[:, None, :, None], key_w[None, :, None, :]
        logits = torch.einsum("bijhc,bijxyhc->bhijxy", q * scale, k[:, key_h, key_w]).flatten(4)
        if bias is not None:
            logits = logits + window_bias(bias.to(q.dtype), height, width, window)
        attn = logits.softmax(-1).unflatten(-1, window.kernel)
        return torch.einsum("bhijxy,bijxyhc->bijhc", attn, v[:, key_h, key_w])


class ReferenceProduct(Backend):
    name = "reference"

    def run(self, inputs: ProductInputs) -> Tensor:
        attn, v, window = inputs
        (key_h, _), (key_w, _) = window.indices(v.shape[2], v.shape[3], v.device)
        values = v[:, :, key_h[:, None, :, None], key_w[None, :, None, :]]
        return torch.einsum("bhijxy,bhijxyc->bhijc", attn.unflatten(-1, window.kernel), values)


class ReferenceScores(Backend):
    name = "reference"

    def run(self, inputs: ScoreInputs) -> Tensor:
        q, k, window = inputs
        (key_h, _), (key_w, _) = window.indices(k.shape[2], k.shape[3], k.device)
        keys = k[:, :, key_h[:, None, :, None], key_w[None, :, None, :]].flatten(4, 5)
        return (q.unsqueeze(4) * keys).sum(-1)
