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
        q, v, bias = inputs.q, inputs.v, inputs.bias
        if bias is not None and torch.onnx.is_in_onnx_export():
            # The exporter takes one kernel or another, whose results lie differently in memory, and fails.
            return ["cannot be exported to ONNX with a bias"]
        # Without a fused kernel it falls back on steps that cost more than "products", though they are more exact in
        # half precision.
        if q.device.type != "cpu" or q.dtype.itemsize < 4 or not is_plain_eager():
            return []
        if q.shape[-1] != v.shape[-1]:
            return ["has no fused kernel on CPU for values of another width"]
        learned = bias is not None and bias.requires_grad and torch.is_grad_enabled()
        return ["has no fused gradient of the bias on CPU"] if learned else []

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
