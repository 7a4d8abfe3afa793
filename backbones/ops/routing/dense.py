"""Routed attention of small maps as one masked product over the whole map."""

from __future__ import annotations

from torch import Tensor

from backbones.ops._dispatch import Backend
from backbones.ops.routing.gathered import attend
from backbones.ops.routing.inputs import RoutedInputs

# Up to this many tokens a map, and regions over k, the product with all keys beats a gather with tiny queries.
MOST_TOKENS, MOST_REGIONS = 256, 4


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
