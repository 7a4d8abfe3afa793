"""Routed attention with all routed keys and values gathered at once, of ordinary operators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.ops._dispatch import Backend
from backbones.ops.routing.inputs import RoutedInputs


def flat_rows(index: Tensor) -> Tensor:
    """Regions `(B, R, k)` of every image as rows `(B * R, k)` of all images' regions."""
    first = torch.arange(len(index), device=index.device).view(-1, 1, 1) * index.shape[1]
    return (index + first).flatten(0, 1)


def gather(kv: Tensor, rows: Tensor) -> Tensor:
    """`(N, m, D + C)` and `(n, k)` rows of it to `(n, k * m, D + C)`."""
    count, topk = rows.shape
    return kv.index_select(0, rows.flatten()).view(count, topk * kv.shape[1], kv.shape[2])


def attend(q: Tensor, kv: Tensor, num_heads: int, scale: float, mask: Tensor | None = None) -> Tensor:
    """`(N, t, D)` queries, `(N, m, D + C)` keys and values to `(N, t, C)`; heads are views."""
    dim = q.shape[-1]
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, kv[..., :dim], kv[..., dim:]))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2).flatten(2)


class GatheredRouting(Backend):
    name = "gathered"

    def run(self, inputs: RoutedInputs) -> Tensor:
        q, kv, index, weight, heads, scale = inputs
        routed = gather(kv.flatten(0, 1), flat_rows(index))
        if weight is not None:
            factor = weight.to(kv.dtype).flatten(0, 1).repeat_interleave(kv.shape[2], 1)
            routed = routed * factor[..., None]
        return attend(q.flatten(0, 1), routed, heads, scale).unflatten(0, q.shape[:2])
