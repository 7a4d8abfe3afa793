"""The operator by its definition; the others are tested by it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.ops._dispatch import Backend
from backbones.ops.attention.inputs import DenseInputs


class ReferenceAttention(Backend):
    name = "reference"

    def run(self, inputs: DenseInputs) -> Tensor:
        q, k, v, bias, dropout, scale = inputs
        logits = torch.einsum("bhnc,bhmc->bhnm", q, k) * scale
        if bias is not None:
            logits = logits + bias
        attn = F.dropout(logits.softmax(-1), dropout, training=dropout > 0)
        return torch.einsum("bhnm,bhmd->bhnd", attn, v)
