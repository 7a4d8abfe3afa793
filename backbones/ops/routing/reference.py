"""The operator by its definition: every region's keys and values are copied; the others are tested by it."""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.ops._dispatch import Backend
from backbones.ops.routing.inputs import RoutedInputs


class ReferenceRouting(Backend):
    name = "reference"

    def run(self, inputs: RoutedInputs) -> Tensor:
        q, kv, index, weight, heads, scale = inputs
        image = torch.arange(len(q), device=q.device).view(-1, 1, 1)
        routed = kv[image, index]  # (B, R, k, m, D + C)
        if weight is not None:
            routed = routed * weight[..., None, None]
        routed = routed.flatten(2, 3)
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, routed[..., : q.shape[-1]], routed[..., q.shape[-1] :]))
        logits = torch.einsum("brthc,brmhc->brhtm", q, k) * scale
        return torch.einsum("brhtm,brmhc->brthc", logits.softmax(-1), v).flatten(3)
