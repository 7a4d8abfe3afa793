"""The operators by their definitions: every query's keys and values are gathered. Slow; the others are tested by it."""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.ops._dispatch import Backend
from backbones.ops.neighborhood.inputs import AttentionInputs, ProductInputs, window_bias


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
