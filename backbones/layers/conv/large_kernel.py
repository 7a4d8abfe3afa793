"""Attention by convolutions of large kernels."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.ops.fusion import fused


class LargeKernelAttention(nn.Module):
    """`x` times a large-kernel convolution of `x`, without any squashing (LKA; VAN, arXiv 2202.09741, section 3.1).

    The 21 x 21 kernel is taken apart into a 5x5 depthwise, a 7x7 depthwise convolution over a grid of step 3, and a
    1x1 convolution.

    Args:
        dim: Channels C.

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.near = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, **dd)
        self.far = nn.Conv2d(dim, dim, 7, padding=9, dilation=3, groups=dim, **dd)
        self.mix = nn.Conv2d(dim, dim, 1, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mix(self.far(self.near(x)))


@register_notrace_module
class GatedLargeKernelAttention(nn.Module):
    """1x1 convolution, GELU, large-kernel attention, 1x1 convolution, and the input added (VAN, figure 3d).

    Args:
        dim: Channels C.

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.proj1 = nn.Conv2d(dim, dim, 1, **dd)
        self.act = nn.GELU()
        self.attn = LargeKernelAttention(dim, **dd)
        self.proj2 = nn.Conv2d(dim, dim, 1, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.proj2(self.attn(fused(self.proj1, self.act)(x)))
