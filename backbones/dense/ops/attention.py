"""Multi-scale deformable attention as mmcv calls it on GPUs; on CPUs mmcv runs a PyTorch form of its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from backbones.dense.ops.precision import exact, gradients

OPERATORS = ("ms_deform_attn_backward", "ms_deform_attn_forward")


def deformable_attention(value: Tensor, locations: Tensor, weights: Tensor, shapes: list[list[int]]) -> Tensor:
    """Weighted sum of values at locations of several maps (Deformable DETR, equation 3, without projections).

    Args:
        value: `(B, all pixels of all maps, heads, dim)`.
        locations: `(B, queries, heads, maps, points, 2)`, x and y, where 0 and 1 are the outer edges of a map.
        weights: `(B, queries, heads, maps, points)`.
        shapes: Height and width of each map.

    Returns:
        `(B, queries, heads * dim)`.
    """
    batch, _, heads, dim = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B * heads, queries, maps, points, 2)
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, len(shapes), points)
    out = value.new_zeros(batch * heads, dim, queries)
    pieces = value.split([height * width for height, width in shapes], dim=1)
    for level, ((height, width), piece) in enumerate(zip(shapes, pieces)):
        image = piece.permute(0, 2, 3, 1).reshape(batch * heads, dim, height, width)
        sampled = F.grid_sample(image, grid[:, :, level], align_corners=False)
        out = out + (sampled * weights[:, :, :, level]).sum(-1)
    return out.view(batch, heads * dim, queries).transpose(1, 2)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """`deformable_attention` of mmcv's tensors."""
    inputs = [exact(x) for x in (value, sampling_locations, attention_weights)]
    out = deformable_attention(*inputs, value_spatial_shapes.tolist())
    return out.to(value.dtype).contiguous()


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Adds gradients to `grad_value`, `grad_sampling_loc` and `grad_attn_weight`."""
    shapes = value_spatial_shapes.tolist()
    grads = gradients(
        lambda *inputs: deformable_attention(*inputs, shapes),
        (value, sampling_locations, attention_weights),
        grad_output,
    )
    for total, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads):
        total += grad
