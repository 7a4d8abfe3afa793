"""Depthwise convolutions of several kernel sizes side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.ops.plain import plain


@plain(parallel=True)
@register_notrace_module
class MultiScaleDepthwiseConv(nn.Module):
    """Depthwise convolutions of rising kernel size, each on its own contiguous slice of the channels.

    The slices are of equal width; the first also takes what is left over.

    Args:
        dim: Channels C.
        kernel_sizes: Side of every slice's kernel, odd.
        bias: Of the convolutions.

    Maps `(B, C, H, W)` to the same shape, slices in their order.

    Raises:
        ValueError: Fewer channels than kernels, or a kernel of even size.
    """

    def __init__(
        self, dim: int, kernel_sizes: Sequence[int] = (1, 3, 5, 7), bias: bool = True, device=None, dtype=None
    ) -> None:
        super().__init__()
        if dim < len(kernel_sizes):
            raise ValueError(f"dim {dim} must not be smaller than the number of kernels {len(kernel_sizes)}")
        if any(size % 2 == 0 for size in kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd, not {tuple(kernel_sizes)}")
        width = dim // len(kernel_sizes)
        self.widths = [dim - width * (len(kernel_sizes) - 1)] + [width] * (len(kernel_sizes) - 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(w, w, size, padding=size // 2, groups=w, bias=bias, device=device, dtype=dtype)
            for w, size in zip(self.widths, kernel_sizes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([conv(part) for conv, part in zip(self.convs, x.split(self.widths, dim=1))], dim=1)
