"""Operators at the sizes of a detector on images of 800 x 1216 pixels, ours and mmcv's compiled ones."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import torch
from torch import Tensor

import backbones_mmcv
from backbones.dense.ops.extension import BUILD, Extension, OperatorsError

Inputs = Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]
HEIGHT, WIDTH = 800, 1216
LEVELS = [[100, 152], [50, 76], [25, 38], [13, 19]]


def _boxes(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    corner = torch.rand(count, 2, device=device) * torch.tensor([WIDTH - 200.0, HEIGHT - 200.0], device=device)
    return torch.cat([corner, corner + 16 + 184 * torch.rand(count, 2, device=device)], dim=1).to(dtype)


def _regions(batch: int, count: int) -> Inputs:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        image = torch.arange(batch, device=device, dtype=dtype).repeat_interleave(count)
        rois = torch.cat([image[:, None], _boxes(batch * count, device, dtype)], dim=1)
        return torch.randn(batch, 256, HEIGHT // 4, WIDTH // 4, device=device, dtype=dtype), rois

    return inputs


def _scored(count: int) -> Inputs:
    return lambda device, dtype: (_boxes(count, device, dtype), torch.rand(count, device=device, dtype=dtype))


def _convolved(batch: int) -> Inputs:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        shapes = ((256, 50, 76), (18, 50, 76), (9, 50, 76))
        maps = [torch.randn(batch, *shape, device=device, dtype=dtype) for shape in shapes]
        return *maps, torch.randn(256, 256, 3, 3, device=device, dtype=dtype)

    return inputs


def _attended(batch: int) -> Inputs:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        shapes = torch.tensor(LEVELS, device=device)
        sizes = shapes.prod(1)
        count = int(sizes.sum())
        value = torch.randn(batch, count, 8, 32, device=device, dtype=dtype)
        at = torch.rand(batch, count, 8, len(LEVELS), 4, 2, device=device, dtype=dtype)
        weights = torch.rand(batch, count, 8, len(LEVELS), 4, device=device, dtype=dtype)
        return value, shapes, sizes.cumsum(0) - sizes, at, weights

    return inputs


def cases(batch: int) -> list[tuple[str, Callable[..., Tensor], Callable[..., Tensor], Inputs, bool]]:
    """Name, call of ours, call of mmcv's, inputs, and whether there are gradients.

    Raises:
        OperatorsError: mmcv has no compiled operators that work.
    """
    import mmcv.ops as mm

    compiled = sys.modules[backbones_mmcv.NAME]
    if isinstance(compiled, Extension):
        raise OperatorsError(f"mmcv has no compiled operators to compare with: build them by {BUILD}.")

    def case(name: str, module: str, call: Callable[..., Tensor], inputs: Inputs, differentiable: bool = True) -> tuple:
        user = importlib.import_module(f"mmcv.ops.{module}")

        def calling(extension) -> Callable[..., Tensor]:
            def run(*x: Tensor) -> Tensor:
                user.ext_module = extension  # of the backward pass, too
                return call(*x)

            return run

        return name, calling(Extension()), calling(compiled), inputs, differentiable

    attention = mm.multi_scale_deform_attn

    def attend(*x: Tensor) -> Tensor:
        if attention.ext_module is compiled and not x[0].is_cuda:  # mmcv's form for CPUs is in PyTorch
            return attention.multi_scale_deformable_attn_pytorch(x[0], x[1], x[3], x[4])
        return attention.MultiScaleDeformableAttnFunction.apply(*x, 64)

    def align(size: int) -> Callable[..., Tensor]:
        return lambda x, rois: mm.roi_align(x, rois.detach(), size, 0.25, 0, "avg", True)

    return [
        case("RoIAlign 200x304, 512 regions, 7x7", "roi_align", align(7), _regions(batch, 512)),
        case("RoIAlign 200x304, 128 regions, 14x14", "roi_align", align(14), _regions(batch, 128)),
        case("nms, 4000 boxes", "nms", lambda *x: mm.nms(*x, 0.7)[0], _scored(4000), False),
        case("soft-nms, 1000 boxes", "nms", lambda *x: mm.soft_nms(*x, 0.5)[0], _scored(1000), False),
        case(
            "deformable convolution 50x76, 256 channels",
            "deform_conv",
            lambda x, offset, mask, weight: mm.deform_conv2d(x, offset, weight, 1, 1),
            _convolved(batch),
        ),
        case(
            "modulated deformable convolution 50x76, 256 channels",
            "modulated_deform_conv",
            lambda *x: mm.modulated_deform_conv2d(*x, None, 1, 1),
            _convolved(batch),
        ),
        case("deformable attention, 4 maps from 100x152", "multi_scale_deform_attn", attend, _attended(batch)),
    ]
