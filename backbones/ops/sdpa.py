"""Scaled dot-product attention with a learned bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from backbones._compat import is_plain_eager


def biased_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> torch.Tensor:
    """`softmax(q @ k^T * scale + bias) @ v`, fast in training too.

    Args:
        q: `(B, heads, N, c)`.
        k: `(B, heads, M, c)`.
        v: `(B, heads, M, d)`.
        bias: What broadcasts to `(B, heads, N, M)`, or None.
        dropout: Probability that a weight is dropped.
        scale: `c ** -0.5` if None.

    Returns:
        `(B, heads, N, d)`.
    """
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    bias = bias.to(q.dtype)
    learned = bias.requires_grad and torch.is_grad_enabled()
    slow = learned and q.device.type == "cpu" and q.dtype.itemsize >= 4 and is_plain_eager()
    if slow or torch.onnx.is_in_onnx_export():
        # SDPA's fused kernel on CPU has no gradient of the bias, and its fallback costs more than these three steps.
        # ONNX's exporter takes now one, now the other, whose results lie differently in memory, and fails.
        scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1) + bias
        return F.dropout(scores.softmax(-1), dropout, training=dropout > 0) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
