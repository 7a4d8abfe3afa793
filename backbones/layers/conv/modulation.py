"""Scale-aware modulation: values weighted by a context of several kernel sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.conv.multiscale import MultiScaleDepthwiseConv
from backbones.layers.pointwise import Linear


class MultiHeadMixedConv(MultiScaleDepthwiseConv):
    """Depthwise convolutions of several kernel sizes on the heads of a map, which come out interleaved.

    The multi-head mixed convolution of SMT (arXiv 2307.08579, section 3.1). Channel `q * heads + m` of the result is
    channel q of head m, so that each group of neighbouring channels holds all kernel sizes.

    Args:
        dim: Channels C, a multiple of the number of kernels.
        kernel_sizes: Side of every head's kernel, odd.

    Maps `(B, C, H, W)` to the same shape.

    Raises:
        ValueError: Heads of different widths, or a kernel of even size.
    """

    def __init__(self, dim: int, kernel_sizes: Sequence[int] = (3, 5, 7, 9), device=None, dtype=None) -> None:
        if dim % len(kernel_sizes):
            raise ValueError(f"dim {dim} must be a multiple of the number of kernels {len(kernel_sizes)}")
        super().__init__(dim, kernel_sizes, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [conv(part).permute(0, 2, 3, 1) for conv, part in zip(self.convs, x.split(self.widths, dim=1))]
        return torch.stack(heads, dim=-1).flatten(-2).permute(0, 3, 1, 2)


@register_notrace_module
class ScaleAwareModulation(nn.Module):
    """Values times a multi-scale context of the input (SMT, arXiv 2307.08579, sections 3.1 and 3.2).

    The context is a multi-head mixed convolution and its scale-aware aggregation: groups of one channel of every head
    are widened by grouped 1x1 convolution, and all mixed by a dense one.

    Args:
        dim: Channels C, a multiple of the number of kernels.
        kernel_sizes: Side of every head's kernel, odd.
        expand_ratio: Width between the two 1x1 convolutions over C.

    Maps `(B, H, W, C)` to `(B, H, W, C)`.

    Raises:
        ValueError: Heads of different widths, or a kernel of even size.
    """

    def __init__(
        self,
        dim: int,
        kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        expand_ratio: int = 2,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        hidden = dim * expand_ratio
        self.v = Linear(dim, dim, **dd)
        self.s = Linear(dim, dim, **dd)
        self.heads = MultiHeadMixedConv(dim, kernel_sizes, **dd)
        self.expand = nn.Conv2d(dim, hidden, 1, groups=dim // len(kernel_sizes), **dd)
        self.norm = nn.BatchNorm2d(hidden, **dd)
        self.act = nn.GELU()
        self.mix = nn.Conv2d(hidden, dim, 1, **dd)
        self.proj = Linear(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        context = self.heads(self.s(x).permute(0, 3, 1, 2))
        context = self.mix(self.act(self.norm(self.expand(context))))
        return self.proj(context.permute(0, 2, 3, 1) * self.v(x))
