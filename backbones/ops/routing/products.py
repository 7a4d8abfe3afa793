"""Routed attention of ordinary operators: one masked product over a small map, or all routed keys gathered at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.ops._dispatch import Backend
from backbones.ops.routing.reference import RoutedInputs

# Up to this many tokens a map, and regions over k, the product with all keys beats a gather with tiny queries.
MOST_TOKENS, MOST_REGIONS = 256, 4


def flat_rows(index: Tensor) -> Tensor:
    """Regions `(B, R, k)` of every image as rows `(B * R, k)` of all images' regions."""
    first = torch.arange(index.shape[0], device=index.device).view(-1, 1, 1) * index.shape[1]
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


class DenseRouting(Backend):
    name = "dense"

    def unsupported_reasons(self, inputs: RoutedInputs) -> list[str]:
        return [] if inputs.weight is None else ["does not weigh regions"]

    def unsuitable_reasons(self, inputs: RoutedInputs) -> list[str]:
        regions, tokens = inputs.q.shape[1:3]
        keys, topk = inputs.kv.shape[2], inputs.index.shape[-1]
        # Symbolic sizes must not be compared: that would bind an exported program to one side of the threshold.
        if not isinstance(regions * tokens * keys, int):
            return ["needs sizes that are numbers"]
        if regions * max(tokens, keys) > MOST_TOKENS:
            return [f"is for maps of at most {MOST_TOKENS} tokens"]
        return [f"is for at most {MOST_REGIONS} * topk regions"] if regions > MOST_REGIONS * topk else []

    def run(self, inputs: RoutedInputs) -> Tensor:
        q, kv, index, _, heads, scale = inputs
        (batch, regions, tokens), keys = q.shape[:3], kv.shape[2]
        mask = q.new_full((batch, regions, regions), float("-inf")).scatter(2, index, 0.0)
        mask = mask[:, None, :, None, :, None].expand(-1, 1, -1, tokens, -1, keys).flatten(4).flatten(2, 3)
        out = attend(q.flatten(1, 2), kv.flatten(1, 2), heads, scale, mask)
        return out.unflatten(1, (regions, tokens))


class GatheredRouting(Backend):
    name = "gathered"

    def run(self, inputs: RoutedInputs) -> Tensor:
        q, kv, index, weight, heads, scale = inputs
        routed = gather(kv.flatten(0, 1), flat_rows(index))
        if weight is not None:
            factor = weight.to(kv.dtype).flatten(0, 1).repeat_interleave(kv.shape[2], 1)
            routed = routed * factor[..., None]
        return attend(q.flatten(0, 1), routed, heads, scale).unflatten(0, q.shape[:2])
