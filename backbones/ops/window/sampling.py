"""Windows of any place and size, read from a map by bilinear interpolation (VSA, arXiv 2204.08446, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor

from backbones._compat import is_plain_eager
from backbones.ops._dispatch import Backend, Operator


class SampleInputs(NamedTuple):
    """A map `(B, H, W, S, heads, c)`, rows `(B, G, heads, P)` and columns `(B, G, heads, Q)` of every window."""

    x: Tensor
    rows: Tensor
    columns: Tensor


class GridSampling(Backend):
    """torch's `grid_sample` of every head's channels."""

    name = "grid_sample"

    def run(self, inputs: SampleInputs) -> Tensor:
        x, rows, columns = inputs
        b, height, width, sets, heads, c = x.shape
        p, q = rows.shape[-1], columns.shape[-1]
        images = x.permute(4, 0, 3, 5, 1, 2).reshape(heads * b, sets * c, height, width)
        # The outer pixels' centres are half a pixel inside of -1 and 1, so that maps of one row are no exception.
        y, x = (2 * rows.flatten(0, 1) + 1) / height - 1, (2 * columns.flatten(0, 1) + 1) / width - 1
        grid = torch.stack((x.unsqueeze(-2).expand(-1, -1, p, -1), y.unsqueeze(-1).expand(-1, -1, -1, q)), -1)
        # No axis counts an image's windows alone: an exported program would be tied to one or to many of them.
        grid = grid.transpose(0, 1).reshape(heads, -1, 2).unflatten(1, (b, -1)).reshape(heads * b, 1, -1, 2)
        out = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        out = out.reshape(heads, b, sets, c, -1).permute(2, 1, 4, 0, 3).reshape(sets, -1, heads, c)
        return out.unflatten(1, (*rows.shape[:2], p * q))


class BagSampling(Backend):
    """The four positions around every place as a bag of embeddings with weights: memory is read in rows of c values."""

    name = "bags"

    def unsuitable_reasons(self, inputs: SampleInputs) -> list[str]:
        reasons = []
        if not is_plain_eager():
            reasons.append("does not go into the captured graph")
        if inputs.x.device.type != "cpu":
            reasons.append("is for the CPU")
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
            reasons.append("has a slow gradient")
        return reasons

    def run(self, inputs: SampleInputs) -> Tensor:
        x, rows, columns = inputs
        b, height, width, sets, heads, c = x.shape
        groups, p, q = rows.shape[1], rows.shape[-1], columns.shape[-1]
        y, weights_y = _neighbours(rows, height)
        x_, weights_x = _neighbours(columns, width)
        image = torch.arange(b, device=x.device).view(b, 1, 1, 1, 1)
        head = torch.arange(heads, device=x.device).view(heads, 1, 1)
        y, x_ = (image * height + y) * (width * sets * heads) + head, x_ * (sets * heads)
        places = (y[..., :, None, :, None] + x_[..., None, :, None, :]).reshape(-1, 4)
        weights = (weights_y[..., :, None, :, None] * weights_x[..., None, :, None, :]).reshape(-1, 4)
        table = x.reshape(-1, c)
        out = [F.embedding_bag(places + i * heads, table, mode="sum", per_sample_weights=weights) for i in range(sets)]
        return torch.stack(out).view(sets, b, groups, heads, p * q, c).transpose(3, 4)


def _neighbours(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two positions around each place of an axis, `(..., 2)`, and their weights, zero outside of the map."""
    first = places.floor()
    share = places - first
    at = torch.stack((first, first + 1), -1)
    weights = torch.stack((1 - share, share), -1) * ((at >= 0) & (at <= size - 1))
    return at.clamp(0, size - 1).long(), weights


SAMPLE = Operator("sample_windows", [BagSampling(), GridSampling()])


@register_notrace_function
def sample_windows(x: Tensor, rows: Tensor, columns: Tensor, backend: str = "auto") -> Tensor:
    """Read windows of P x Q places each from a map, by bilinear interpolation; outside of the map all is zero.

    Args:
        x: `(B, H, W, S, heads, c)`: S sets of channels that are read at the same places.
        rows: `(B, G, heads, P)`: where the rows of each head's windows lie, in pixels: 0 is the first row's centre.
            Where sizes are symbolic, `(1, B * G, heads, P)`, as `Groups.cut` has it.
        columns: `(B, G, heads, Q)`, the same for columns.
        backend: "grid_sample", "bags" or "auto".

    Returns:
        `(S, B, G, P * Q, heads, c)`, or `(S, 1, B * G, P * Q, heads, c)`, in the type of `x`; computed in float32 at
        least.

    Raises:
        ValueError: on shapes that do not fit, or an unknown backend.
    """
    if x.ndim != 6 or rows.ndim != 4 or rows.shape[:3] != columns.shape[:3] or rows.shape[2] != x.shape[4]:
        raise ValueError(
            "x must be (B, H, W, S, heads, c), and rows and columns (B, G, heads, number), got"
            f" {tuple(x.shape)}, {tuple(rows.shape)} and {tuple(columns.shape)}."
        )
    dtype = torch.promote_types(x.dtype, torch.float32)
    return SAMPLE(SampleInputs(x.to(dtype), rows.to(dtype), columns.to(dtype)), backend).to(x.dtype)
