"""Attention of regions of a map to routed regions of it.

Source: Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023 (arXiv 2303.08810),
section 3.2. Shapes below: B images, R regions of t tokens each, k routed regions a query region, D channels of queries
and keys, C channels of values. How a map is cut into regions is defined in `geometry`.
"""

from __future__ import annotations

from timm.layers import register_notrace_function
from torch import Tensor

from backbones.ops._dispatch import Operator
from backbones.ops.routing.chunked import ChunkedRouting
from backbones.ops.routing.products import DenseRouting, GatheredRouting
from backbones.ops.routing.reference import ReferenceRouting, RoutedInputs
from backbones.ops.sizes import static_size

# The preferred first.
ROUTING = Operator("routed_attention", [DenseRouting(), ChunkedRouting(), GatheredRouting(), ReferenceRouting()])


@register_notrace_function
def routed_attention(
    q: Tensor,
    kv: Tensor,
    index: Tensor,
    num_heads: int,
    scale: float | None = None,
    weight: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attention of every region's queries to all keys of its routed regions (section 3.2, equation 6).

    Args:
        q: Queries `(B, R, t, D)`.
        kv: Keys and values side by side `(B, R, m, D + C)`; m may differ from t.
        index: Routed regions of every region, `(B, R, k)`, integers in [0, R), all different.
        num_heads: Heads; must divide D and C. Channel c belongs to head c // (width of a head).
        scale: Factor of the logits; (D / heads) ** -0.5 if None.
        weight: Factors of the routed regions' keys and values, `(B, R, k)`; None for 1.
        backend: "dense" (one masked product over the whole map, for small maps), "chunked" (a bounded part of the
            copies of keys and values at a time, which the backward pass gathers again; eager mode only), "gathered"
            (all copies at once; ordinary operators, so it can be traced), "reference", or "auto": the first of them
            that suits, see `explain`.

    Returns:
        `(B, R, t, C)`.

    Raises:
        ValueError: on shapes that do not fit, or inputs that the asked for backend does not take.
    """
    if q.ndim != 4 or kv.ndim != 4 or q.shape[:2] != kv.shape[:2]:
        raise ValueError(
            f"q (B, R, t, D) and kv (B, R, m, D + C) must have 4 dimensions and equal regions, got {tuple(q.shape)} and"
            f" {tuple(kv.shape)}."
        )
    if index.ndim != 3 or index.shape[:2] != q.shape[:2]:
        raise ValueError(f"index must have shape (B, R, k) = {(*q.shape[:2], 'k')}, got {tuple(index.shape)}.")
    if weight is not None and weight.shape != index.shape:
        raise ValueError(f"weight must have the shape of index {tuple(index.shape)}, got {tuple(weight.shape)}.")
    dim, width = q.shape[-1], kv.shape[-1] - q.shape[-1]
    if dim % num_heads or width < 1 or width % num_heads:
        raise ValueError(f"num_heads {num_heads} must divide the {dim} channels of q and the {width} of the values.")
    scale = (static_size(dim) // num_heads) ** -0.5 if scale is None else scale
    return ROUTING(RoutedInputs(q, kv, index, weight, num_heads, scale), backend)
