"""Convolutional units on `(B, C, H, W)` maps that several convolutional mixers are made of."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.norm import GlobalResponseNorm
from backbones.layers.pointwise import Linear
from backbones.ops.chunks import chunkable
from backbones.ops.fusion import fused
from backbones.ops.onednn import activation, can_fuse, conv2d
from backbones.ops.plain import plain


@plain()
class ConvNorm(nn.Module):
    """Convolution, by default without bias, then BatchNorm.

    Args:
        in_dim, dim: Channels in and out.
        kernel_size, stride, padding, dilation, groups, bias: As in `nn.Conv2d`; by default "same" padding.
        eps: Of the BatchNorm.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        eps: float = 1e-5,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if padding is None:
            padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(in_dim, dim, kernel_size, stride, padding, dilation, groups, bias, **dd)
        self.norm = nn.BatchNorm2d(dim, eps=eps, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


@plain()
@register_notrace_module
class ResidualDepthwiseConv(nn.Conv2d):
    """`x + depthwise_conv(x)`, 3x3 by default: a conditional position encoding (CPVT, arXiv 2102.10882)."""

    def __init__(self, dim: int, kernel_size: int = 3, device=None, dtype=None) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_with(x, self.weight, self.bias)

    def forward_with(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str | None = None
    ) -> torch.Tensor:
        """See `backbones.ops.fusion.Product`."""
        if can_fuse(x, weight):
            # The sum as a part of the kernel: one pass over the map.
            middle = self.kernel_size[0] // 2
            weight = weight.clone()
            weight[:, :, middle, middle] += 1
            return conv2d(x, weight, bias, padding=self.padding, groups=self.groups, act=act)
        return activation(x + conv2d(x, weight, bias, padding=self.padding, groups=self.groups), act)


@register_notrace_module
class ConvMlp(nn.Module):
    """Pointwise MLP with a residual 3x3 depthwise convolution and global response normalisation in its hidden layer.

    Args:
        dim: Channels C in and out.
        hidden_dim: Width of the hidden layer.
        grn: Whether there is the normalisation.
    """

    def __init__(self, dim: int, hidden_dim: int, grn: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = nn.Conv2d(dim, hidden_dim, 1, **dd)
        self.act = nn.GELU()
        self.dwconv = ResidualDepthwiseConv(hidden_dim, **dd)
        self.grn = GlobalResponseNorm(hidden_dim, **dd) if grn else nn.Identity()
        self.fc2 = nn.Conv2d(hidden_dim, dim, 1, **dd)

    @chunkable(axis=2)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fused(self.fc1, self.act, self.dwconv, self.grn, self.fc2)(x)


@register_notrace_module
class DepthwiseMlp(nn.Module):
    """Linear, 3x3 depthwise convolution, GELU, linear on the channels-last view.

    The convolution gives positions (PVT v2, arXiv 2106.13797, section 3.2). By default it is added to its input (SMT,
    arXiv 2307.08579, section 3.3).

    Args:
        dim: Channels C.
        hidden_dim: Width of the hidden layer.
        residual: Add the convolution to its input; otherwise it takes its place, as in PVT v2.

    Maps `(B, H, W, C)` to `(B, H, W, C)`.
    """

    def __init__(self, dim: int, hidden_dim: int, residual: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = Linear(dim, hidden_dim, **dd)
        self.dwconv = (
            ResidualDepthwiseConv(hidden_dim, **dd)
            if residual
            else nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim, **dd)
        )
        self.act = nn.GELU()
        self.fc2 = Linear(hidden_dim, dim, **dd)

    @chunkable(axis=1)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x).permute(0, 3, 1, 2)
        x = fused(self.dwconv, self.act)(x)
        return self.fc2(x.permute(0, 2, 3, 1))


@register_notrace_module
class ConvGLU(nn.Module):
    """Gated linear unit whose gate sees its neighbours (TransNeXt, arXiv 2311.17132, section 3.4).

    One half of a linear layer's output, through a 3x3 depthwise convolution and GELU, times the other; linear layer.

    Args:
        dim: Channels C.
        hidden_dim: Width of each half.

    Maps `(B, H, W, C)` to `(B, H, W, C)`.
    """

    def __init__(self, dim: int, hidden_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = Linear(dim, 2 * hidden_dim, **dd)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim, **dd)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden_dim, dim, **dd)

    @chunkable(axis=1)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.fc1(x).chunk(2, -1)
        gate = fused(self.dwconv, self.act)(gate.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(gate * value)
