"""Convolutions of several kernel sizes or dilations side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.patch import pad_to_multiple
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


@register_notrace_module
class CrossScaleConv(nn.Module):
    """Convolutions of one stride on the same map, concatenated (CrossFormer, arXiv 2108.00154, section 3.1).

    Args:
        in_dim: Channels in.
        dims: Channels of each convolution.
        kernel_sizes: Their kernels, whose centres coincide.
        stride: The map is zero-padded below and right to a multiple of it.
        dilations: Of the kernels; 1 by default.

    Maps `(B, in_dim, H, W)` to `(B, sum(dims), ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(
        self,
        in_dim: int,
        dims: Sequence[int],
        kernel_sizes: Sequence[int],
        stride: int,
        dilations: Sequence[int] | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.stride = stride
        dilations = [1] * len(dims) if dilations is None else dilations
        self.convs = nn.ModuleList(
            # Half of what the kernel exceeds the stride by, rounded up.
            nn.Conv2d(in_dim, dim, size, stride, ((size - 1) * dilation + 2 - stride) // 2, dilation, **dd)
            for dim, size, dilation in zip(dims, kernel_sizes, dilations, strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = pad_to_multiple(x, self.stride)
        return torch.cat([conv(x) for conv in self.convs], dim=1)
