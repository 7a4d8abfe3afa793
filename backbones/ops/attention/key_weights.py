"""Attention that also tells how much weight every key gets."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from backbones._compat import is_plain_eager
from backbones.ops.sizes import static_size

# Weights of attention that are in memory at a time where they need not be kept: 16 MiB.
CHUNK = 1 << 22


def attention_and_key_weights(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, real: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`softmax(q @ k^T * c ** -0.5) @ v`, and how much weight every key gets.

    The weights are never all in memory where there are many of them and they need not be kept for a backward pass.

    Args:
        q: `(B, heads, N, c)`.
        k: `(B, heads, M, c)`.
        v: `(B, heads, M, d)`.
        real: `(B, M)` bool where queries and keys are the same tokens: those that are False are no keys, and give no
            weight as queries. Every row needs one that is True.

    Returns:
        `(B, heads, N, d)`, and `(B, M)`: the mean of a key's weights over heads and queries, in float32 at least,
        without gradient.
    """
    batch, heads, count, _ = q.shape
    scale = static_size(q.shape[-1]) ** -0.5

    def weigh(q: torch.Tensor) -> torch.Tensor:
        scores = (q * scale) @ k.transpose(-2, -1)
        return (scores if real is None else scores.masked_fill(~real[:, None, None], float("-inf"))).softmax(-1)

    def given(weights: torch.Tensor) -> torch.Tensor:
        weights = weights.detach() if real is None else weights.detach() * real[:, None, :, None]
        return weights.sum((1, 2), dtype=torch.promote_types(weights.dtype, torch.float32)) / (heads * count)

    def attend(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights = weigh(q)
        return weights.to(v.dtype) @ v, given(weights)

    if not is_plain_eager() or real is not None or batch * heads * count * k.shape[2] <= CHUNK:
        return attend(q)
    parts = q.split(max(1, CHUNK // (batch * heads * k.shape[2])), 2)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        with torch.no_grad():
            shares = [given(weigh(part)) for part in parts]
        return F.scaled_dot_product_attention(q, k, v), sum(shares)
    outs, shares = zip(*map(attend, parts))
    return torch.cat(outs, 2), sum(shares)
