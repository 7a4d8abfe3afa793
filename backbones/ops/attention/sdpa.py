"""Attention by torch's fused kernels, and by plain products where these are faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones._compat import is_plain_eager
from backbones.ops._dispatch import Backend
from backbones.ops.attention.reference import DenseInputs


class FusedAttention(Backend):
    """torch's `scaled_dot_product_attention`, which chooses among its own kernels."""

    name = "sdpa"

    def unsuitable_reasons(self, inputs: DenseInputs) -> list[str]:
        bias = inputs.bias
        if bias is None:
            return []
        if torch.onnx.is_in_onnx_export():
            # The exporter takes one kernel or another, whose results lie differently in memory, and fails.
            return ["cannot be exported to ONNX with a bias"]
        learned = bias.requires_grad and torch.is_grad_enabled()
        if learned and bias.device.type == "cpu" and bias.dtype.itemsize >= 4 and is_plain_eager():
            return ["has no fused gradient of the bias on CPU"]
        return []

    def run(self, inputs: DenseInputs) -> Tensor:
        q, k, v, bias, dropout, scale = inputs
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)


class ProductAttention(Backend):
    """Product, softmax, product."""

    name = "products"

    def run(self, inputs: DenseInputs) -> Tensor:
        q, k, v, bias, dropout, scale = inputs
        scores = (q * scale) @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        return F.dropout(scores.softmax(-1), dropout, training=dropout > 0) @ v
