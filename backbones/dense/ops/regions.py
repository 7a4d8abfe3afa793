"""Pooling of regions: mmcv's RoIAlign (average and maximum) and RoIPool.

Regions (RoIs) are `(N, 5)`: the image's index in the batch and corners `x1, y1, x2, y2` in pixels of the image, which
`spatial_scale` brings to those of the map. Maps are `(B, C, H, W)`, results `(N, C, height, width)`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.ops import roi_align

from backbones._compat import roi_align_backward as average_backward
from backbones.dense.ops.precision import exact

OPERATORS = ("roi_align_backward", "roi_align_forward", "roi_pool_backward", "roi_pool_forward")
MAXIMUM, AVERAGE = 0, 1
_SAMPLES = 2**24  # at once, for the maximum


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (Mask R-CNN, section 3): bilinear samples on a grid in each bin, of which the average or the maximum.

    For the maximum, `argmax_y` and `argmax_x` get the row and column of the greatest sample in its bin's grid.
    """
    x, rois = exact(input), exact(rois).to(exact(input).dtype)
    size = (aligned_height, aligned_width)
    if pool_mode == AVERAGE:
        output.copy_(roi_align(x, rois, size, spatial_scale, sampling_ratio, aligned))
        return
    for chosen, (rows, columns) in _by_grid(rois, size, spatial_scale, sampling_ratio, aligned, x.shape[1]):
        # A grid of samples in a bin is a finer grid of bins of one sample each.
        fine = (size[0] * rows, size[1] * columns)
        samples = roi_align(x, rois[chosen], fine, spatial_scale, 1, aligned)
        samples = samples.unflatten(3, (-1, columns)).unflatten(2, (-1, rows)).transpose(3, 4)
        best = samples.flatten(4).max(-1)
        output[chosen] = best.values.to(output.dtype)
        argmax_y[chosen] = best.indices.div(columns, rounding_mode="floor").to(output.dtype)
        argmax_x[chosen] = best.indices.remainder(columns).to(output.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Adds the gradient of RoIAlign's maps to `grad_input`."""
    grad = exact(grad_output).contiguous()
    rois = exact(rois).to(grad.dtype)
    size = (aligned_height, aligned_width)
    if pool_mode == AVERAGE:
        grad_input += average_backward(grad, rois, spatial_scale, *size, *grad_input.shape, sampling_ratio, aligned)
        return
    for chosen, (rows, columns) in _by_grid(rois, size, spatial_scale, sampling_ratio, aligned, grad.shape[1]):
        best = (argmax_y[chosen].long() * columns + argmax_x[chosen].long()).unsqueeze(-1)
        samples = grad.new_zeros(*best.shape[:-1], rows * columns).scatter_(-1, best, grad[chosen].unsqueeze(-1))
        samples = samples.unflatten(4, (rows, columns)).transpose(3, 4).flatten(4).flatten(2, 3).contiguous()
        fine = samples.shape[2:]
        grad_input += average_backward(samples, rois[chosen], spatial_scale, *fine, *grad_input.shape, 1, aligned)


def _by_grid(
    rois: Tensor, size: tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool, channels: int
) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Indices of regions that have the same number of samples in a bin, and these numbers: rows and columns.

    A ratio of 0 means one sample for each started pixel of the map, along both sides. Regions without a sample are
    left out. What is yielded at once makes no more than some millions of samples.
    """
    if sampling_ratio > 0:
        grids = rois.new_full((len(rois), 2), sampling_ratio, dtype=torch.long)
    else:
        sides = (rois[:, [4, 3]] - rois[:, [2, 1]]) * spatial_scale
        if not aligned:
            sides = sides.clamp(min=1)
        grids = (sides / torch.tensor(size, device=rois.device)).ceil().long()
    for grid in grids.unique(dim=0).tolist():
        if min(grid) > 0:
            of_grid = (grids == grids.new_tensor(grid)).all(1).nonzero()[:, 0]
            samples = channels * size[0] * size[1] * grid[0] * grid[1]
            yield from ((part, tuple(grid)) for part in of_grid.split(max(_SAMPLES // samples, 1)))


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool (Fast R-CNN, section 2.1): the maximum of the map's pixels that a bin touches; zero where it has none.

    mmcv does not round regions to pixels, as torchvision and the paper do, but each of their bins outwards, and the
    lower right corner belongs to the region. `argmax` gets the flat index in the map of the greatest pixel, or -1.
    """
    x = exact(input)
    height, width = x.shape[2:]
    rois = exact(rois).to(x.dtype)
    argmax.fill_(-1)
    low, high = rois[:, 1:3] * spatial_scale, (rois[:, 3:] + 1) * spatial_scale
    columns = _bins(low[:, 0], high[:, 0], pooled_width, width)
    rows = _bins(low[:, 1], high[:, 1], pooled_height, height)
    valid = (high > low).all(1)
    for n in valid.nonzero()[:, 0].tolist():
        row, some_rows = _pixels(*(bound[n] for bound in rows))
        column, some_columns = _pixels(*(bound[n] for bound in columns))
        if not row.shape[1] or not column.shape[1]:
            continue
        index = (row[:, None, :, None] * width + column[None, :, None, :]).flatten(2)  # (bins, bins, pixels)
        best = x[int(rois[n, 0])].flatten(1)[:, index].max(-1)
        inside = some_rows[:, None] & some_columns
        output[n] = torch.where(inside, best.values, 0).to(output.dtype)
        at = index.expand(len(best.indices), *index.shape).gather(-1, best.indices.unsqueeze(-1))[..., 0]
        argmax[n] = torch.where(inside, at, -1).to(argmax.dtype)


def _bins(low: Tensor, high: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
    """First pixel and the one after the last of each bin, `(N, count)`, within the map."""
    size = ((high - low) / count)[:, None]
    steps = torch.arange(count + 1, device=low.device, dtype=low.dtype)
    edges = steps * size + low[:, None]
    return edges[:, :-1].floor().clamp(0, limit).long(), edges[:, 1:].ceil().clamp(0, limit).long()


def _pixels(first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of every bin along one side, `(bins, most)`, the last repeated as needed, and which bins have any."""
    most = int((end - first).max().clamp(min=0))
    steps = torch.arange(most, device=first.device)
    pixels = torch.minimum(first[:, None] + steps, (end - 1)[:, None]).clamp(min=0)
    return pixels, end > first


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds the gradient of RoIPool's maps to `grad_input`: each result's goes to its greatest pixel."""
    batch, channels, height, width = grad_input.shape
    grad = exact(grad_output)
    maps = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)  # (N, C)
    index = maps[:, :, None, None] * height * width + argmax
    index, grad = index[argmax >= 0], grad[argmax >= 0]
    total = grad.new_zeros(grad_input.numel()).index_add_(0, index, grad)
    grad_input += total.view(batch, channels, height, width)
