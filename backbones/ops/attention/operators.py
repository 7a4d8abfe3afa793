"""Scaled dot-product attention with a bias, such as a relative position bias table's.

Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, section 3.2.1; the bias: Shaw et al., arXiv
1803.02155, and Liu et al., "Swin Transformer", arXiv 2103.14030, equation 4.
"""

from __future__ import annotations

from timm.layers import register_notrace_function
from torch import Tensor

from backbones.ops._dispatch import Operator
from backbones.ops.attention.reference import DenseInputs, ReferenceAttention
from backbones.ops.attention.sdpa import FusedAttention, ProductAttention
from backbones.ops.sizes import static_size

# The preferred first.
BACKENDS = [FusedAttention(), ProductAttention(), ReferenceAttention()]
ATTENTION = Operator("biased_attention", BACKENDS)


@register_notrace_function
def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """`softmax(q @ k^T * scale + bias) @ v`, fast in training too.

    Args:
        q: `(B, heads, N, c)`.
        k: `(B, heads, M, c)`.
        v: `(B, heads, M, d)`.
        bias: What broadcasts to `(B, heads, N, M)`, or None.
        dropout: Probability that a weight is dropped.
        scale: `c ** -0.5` if None.
        backend: "sdpa" (torch's fused kernels), "products" (product, softmax, product: the faster one for the gradient
            of a bias on CPU), "reference", or "auto": the first of them that suits, see `explain`.

    Returns:
        `(B, heads, N, d)`.

    Raises:
        ValueError: on an unknown backend.
    """
    bias = None if bias is None else bias.to(q.dtype)
    scale = static_size(q.shape[-1]) ** -0.5 if scale is None else scale
    return ATTENTION(DenseInputs(q, k, v, bias, dropout, scale), backend)
