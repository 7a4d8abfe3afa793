"""Attention within windows: among the tokens of every group of positions, of which `geometry` says how they are cut.

Sources: Liu et al., "Swin Transformer", arXiv 2103.14030, section 3.2; Tu et al., "MaxViT", arXiv 2204.01697, section
3.2 (sparse grids). Groups are so many equal problems of dense attention; what computes these is in `ops.attention`.
"""

from __future__ import annotations

import torch
from timm.layers import register_notrace_function
from torch import Tensor

from backbones.ops._dispatch import Operator
from backbones.ops.attention.operators import BACKENDS
from backbones.ops.attention.reference import DenseInputs
from backbones.ops.sizes import static_size

WINDOW = Operator("window_attention", BACKENDS)


@register_notrace_function
def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Scaled dot-product attention among the N tokens of every group.

    Args:
        q, k: `(B, G, N, heads, c)`; views of one qkv projection are welcome.
        v: `(B, G, N, heads, d)`.
        bias: `(heads, N, N)`, query by key, added to the logits; None for no bias.
        mask: bool, `(B, G, N)`, False for tokens that no query may attend to, or `(B, G, N, N)`, query by key; B and G
            may be 1. A query without any that is True attends to all alike. Or float, `(B, G, N, N)`, which is added to
            the logits.
        scale: Factor of q @ k; c ** -0.5 if None.
        backend: "sdpa", "products", "reference" or "auto", as in `ops.attention.biased_attention`.

    Returns:
        `(B, G, N, heads, d)`.

    Raises:
        ValueError: on shapes that do not fit, or an unknown backend.
    """
    if q.ndim != 5 or k.shape != q.shape or v.shape[:-1] != q.shape[:-1]:
        raise ValueError(
            "q, k and v must be (B, G, N, heads, channels) with equal channels of q and k, got"
            f" {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )
    batch, groups, tokens, heads, dim = q.shape
    if bias is not None and tuple(bias.shape) != (heads, tokens, tokens):
        raise ValueError(f"bias must have shape (heads, N, N) = {(heads, tokens, tokens)}, got {tuple(bias.shape)}.")
    if bias is not None:
        bias = bias.to(q.dtype)[None]
    if mask is not None:
        mask = mask[..., None, :] if mask.ndim == 3 else mask
        if bias is None:
            bias = q.new_zeros(1, 1, tokens, tokens)
        mask = mask.expand(batch, groups, -1, -1).flatten(0, 1).unsqueeze(1)
        if mask.dtype == torch.bool:
            # Finite, so that a group of padding alone has finite values and gradients: they are cut off, or zero.
            bias = bias.masked_fill(~mask, torch.finfo(bias.dtype).min / 2)
        else:
            bias = bias + mask.to(bias.dtype)
    scale = static_size(dim) ** -0.5 if scale is None else scale
    q, k, v = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))
    out = WINDOW(DenseInputs(q, k, v, bias, 0.0, scale), backend)
    return out.transpose(1, 2).unflatten(0, (batch, groups))
