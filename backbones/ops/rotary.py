"""Rotary position encoding of maps: pairs of channels turned by angles that grow with row and column.

Source: Su et al., "RoFormer", arXiv 2104.09864, section 3.2.2; half of the channels for each axis: Heo et al., "Rotary
Position Embedding for Vision Transformer", arXiv 2403.13298, section 3.2.
"""

from __future__ import annotations

import torch
from timm.layers import register_notrace_function

from backbones._compat import is_plain_eager
from backbones.ops.cache import shape_cache

BASE = 10000.0  # of the angles, which fall from 1 to 1 / BASE a position


@shape_cache()
def map_rotations(height: int, width: int, dim: int, device: torch.device) -> torch.Tensor:
    """Cosine and sine of the angle by which each pair of channels turns at each position of a map.

    Of the `dim / 2` pairs the first half turns with the row, the second half with the column, both counted from 0. In
    each half, angles a position are spaced evenly in their logarithm, from 1 to 1 / 10000, both included.

    Args:
        height, width: Of the map, H and W.
        dim: Channels, a multiple of 4.
        device: Of the result.

    Returns:
        `(H * W, dim / 2, 2)` in float32, positions row by row.
    """
    angles = BASE ** -torch.linspace(0, 1, dim // 4, device=device)
    rows = torch.arange(height, device=device)[:, None, None] * angles
    columns = torch.arange(width, device=device)[:, None] * angles
    shape = (height, width, dim // 4)
    phases = torch.cat([rows.expand(shape), columns.expand(shape)], dim=-1).flatten(0, 1)
    return torch.stack([phases.cos(), phases.sin()], dim=-1)


@register_notrace_function
def rotate(x: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Turn each pair of channels `(2i, 2i + 1)` of every position.

    Args:
        x: `(..., N, C)`.
        rotations: `(N, C / 2, 2)`, cosine and sine of the angles.

    Returns:
        `(..., N, C)` in the type of `x`, computed in float32 at least.
    """
    pairs = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    if is_plain_eager():  # one kernel; compilers and exporters know no complex numbers, and fuse what follows
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotations))
    else:
        (a, b), (cos, sin) = pairs.unbind(-1), rotations.to(pairs.dtype).unbind(-1)
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1)
    return turned.flatten(-2).to(x.dtype)
