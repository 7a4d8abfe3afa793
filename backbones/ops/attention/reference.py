"""What backends are given, and the operator by its definition, by which the others are tested."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.ops._dispatch import Backend


class DenseInputs(NamedTuple):
    """softmax(scale * q @ k + bias) @ v with q (B, heads, N, c), k (B, heads, M, c), v (B, heads, M, d).

    The bias, or None, broadcasts to (B, heads, N, M) and is -inf where a query must not attend; `dropout` is the
    probability that a weight is dropped.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    dropout: float
    scale: float


class ReferenceAttention(Backend):
    name = "reference"

    def run(self, inputs: DenseInputs) -> Tensor:
        q, k, v, bias, dropout, scale = inputs
        logits = torch.einsum("bhnc,bhmc->bhnm", q, k) * scale
        if bias is not None:
            logits = logits + bias
        attn = F.dropout(logits.softmax(-1), dropout, training=dropout > 0)
        return torch.einsum("bhnm,bhmd->bhnd", attn, v)
