"""What backends are given, and the operator by its definition, by which the others are tested: all keys are copied."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backbones.ops._dispatch import Backend


class RoutedInputs(NamedTuple):
    """Queries (B, R, t, D), keys and values (B, R, m, D + C), routed regions (B, R, k) and their factors or None."""

    q: Tensor
    kv: Tensor
    index: Tensor
    weight: Tensor | None
    num_heads: int
    scale: float


class ReferenceRouting(Backend):
    name = "reference"

    def run(self, inputs: RoutedInputs) -> Tensor:
        q, kv, index, weight, heads, scale = inputs
        image = torch.arange(q.shape[0], device=q.device).view(-1, 1, 1)
        routed = kv[image, index]  # (B, R, k, m, D + C)
        if weight is not None:
            routed = routed * weight[..., None, None]
        routed = routed.flatten(2, 3)
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, routed[..., : q.shape[-1]], routed[..., q.shape[-1] :]))
        logits = torch.einsum("brthc,brmhc->brhtm", q, k) * scale
        return torch.einsum("brhtm,brmhc->brthc", logits.softmax(-1), v).flatten(3)
