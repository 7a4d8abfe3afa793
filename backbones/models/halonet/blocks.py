"""Parts of HaloNets: stem, and bottleneck blocks around a convolution or local attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from timm.layers import DropPath, register_notrace_module
from torch import nn

from backbones.layers.conv.basic import ConvNorm
from backbones.ops.fusion import fused


@register_notrace_module
class Stem(nn.Module):
    """Convolutions, each with BatchNorm and activation, then max pooling of 3x3 and stride 2, or none.

    Args:
        in_chans: Image channels.
        widths: Channels after each convolution.
        strides: Their strides.
        kernel_size: Side of their kernels.
        pool: Whether there is pooling.
        act_layer: Activation.

    Maps `(B, in_chans, H, W)` to `(B, widths[-1], H / reduction, W / reduction)`.
    """

    def __init__(
        self,
        in_chans: int,
        widths: Sequence[int],
        strides: Sequence[int],
        kernel_size: int,
        pool: bool,
        act_layer: type[nn.Module],
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dims = (in_chans, *widths)
        self.reduction = math.prod(strides) * (2 if pool else 1)
        self.convs = nn.ModuleList(
            ConvNorm(dims[i], dims[i + 1], kernel_size, stride, device=device, dtype=dtype)
            for i, stride in enumerate(strides)
        )
        self.act = act_layer()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = fused(conv.conv, conv.norm, self.act)(x)
        return self.pool(x)


@register_notrace_module
class Bottleneck(nn.Module):
    """1x1 convolution, mixer, 1x1 convolution, each with BatchNorm, added to the shortcut (ResNet, arXiv 1512.03385).

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output, D.
        width: Channels that the mixer takes.
        mixer: Module from `(B, width, H, W)` to `(B, mixed, ceil(H / stride), ceil(W / stride))`.
        mixed: Channels that the mixer gives.
        stride: Of the mixer.
        gate: Gate of the mixed channels, after their activation.
        act_layer: Activation.
        linear: No activation after the sum, and no shortcut where the shape changes (RegNetZ, arXiv 2103.06877);
            otherwise a 1x1 convolution with BatchNorm is the shortcut there.
        drop_path: Stochastic depth rate.

    Maps `(B, C, H, W)` to `(B, D, ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        width: int,
        mixer: nn.Module,
        mixed: int,
        stride: int = 1,
        gate: nn.Module | None = None,
        act_layer: type[nn.Module] = nn.SiLU,
        linear: bool = False,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        same = in_dim == dim and stride == 1
        self.has_skip = same or not linear
        self.conv1 = ConvNorm(in_dim, width, **dd)
        self.mixer = mixer
        self.norm2 = nn.BatchNorm2d(mixed, **dd)
        self.gate = gate if gate is not None else nn.Identity()
        self.conv3 = ConvNorm(mixed, dim, **dd)
        self.shortcut: nn.Module | None = None
        if self.has_skip:
            self.shortcut = nn.Identity() if same else ConvNorm(in_dim, dim, 1, stride, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 and self.has_skip else nn.Identity()
        self.act = act_layer()
        self.last_act = nn.Identity() if linear else act_layer()

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Mixer, norm and activation."""
        return fused(self.mixer, self.norm2, self.act)(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mix(fused(self.conv1.conv, self.conv1.norm, self.act)(x))
        y = self.drop_path(fused(self.conv3.conv, self.conv3.norm)(self.gate(y)))
        if self.shortcut is not None:
            y = self.shortcut(x) + y
        return self.last_act(y)


class HaloBottleneck(Bottleneck):
    """The same with attention as mixer, which maps `(B, H, W, width)` to `(B, H', W', mixed)`."""

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm2(self.mixer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))
