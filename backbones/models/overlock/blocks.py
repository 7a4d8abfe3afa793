"""The parts of OverLoCK (arXiv 2502.20087): stem, base blocks, focus blocks, and the stages that join them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn

from backbones.layers.conv.basic import ConvMlp, ConvNorm, ResidualDepthwiseConv
from backbones.layers.conv.contmix import GatedContMix
from backbones.layers.conv.reparam import DilatedReparamConv
from backbones.layers.norm import ChannelAffine, GlobalResponseNorm, LayerNorm2d
from backbones.layers.squeeze_excite import SqueezeExcite
from backbones.models.skeleton import Stage

NORM_EPS = 1e-6  # of every LayerNorm


class Stem(nn.Module):
    """Four 3x3 convolutions with BatchNorm, the first and the third of stride 2; GELU between."""

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        widths = (in_chans, dim // 2, dim // 2, dim, dim)
        for i in range(4):
            unit = ConvNorm(widths[i], widths[i + 1], 3, stride=2 - i % 2, device=device, dtype=dtype)
            self.add_module(f"conv{i + 1}", unit.conv)
            self.add_module(f"norm{i + 1}", unit.norm)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)))
        x = self.act(self.norm3(self.conv3(x)))
        return self.norm4(self.conv4(x))


class BaseBlock(nn.Module):
    """Positional convolution, then one residual branch: large kernel, squeeze-excite and convolutional MLP.

    Args:
        dim: Channels C.
        kernel_size: Of the large kernel.
        mlp_ratio: Hidden width of the MLP over C.
        shortcut_scale: Scale the shortcut, with a bias.
        drop_path: Stochastic depth rate.
        merged: Build the large kernel in its merged form.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int,
        mlp_ratio: float = 4.0,
        shortcut_scale: bool = True,
        drop_path: float = 0.0,
        merged: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.dwconv = ResidualDepthwiseConv(dim, **dd)
        self.norm1 = LayerNorm2d(dim, eps=NORM_EPS, **dd)
        self.mixer = DilatedReparamConv(dim, kernel_size, merged, **dd)
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.se = SqueezeExcite(dim, max(16, dim // 8), act_layer=nn.GELU, **dd)
        self.mlp = ConvMlp(dim, int(dim * mlp_ratio), **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.ls = ChannelAffine(dim, **dd) if shortcut_scale else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dwconv(x)
        branch = self.mlp(self.se(self.norm2(self.mixer(self.norm1(x)))))
        return self.ls(x) + self.drop_path(branch)


class FocusBlock(nn.Module):
    """Gated ContMix and convolutional MLP on the joined map [features, context], context-guided.

    Args:
        dim: Feature channels C.
        context_dim: Context channels Cc; the joined map has C + Cc.
        num_heads: The dynamic convolution has twice as many heads.
        kernel_size, small_kernel_size: Of the dynamic convolution.
        mlp_ratio: Hidden width of the MLP over C.
        update_context: First add the reference context to the context channels, both scaled.
        drop_path: Stochastic depth rate of both branches.
        merged: Build the large kernel in its merged form.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        num_heads: int,
        kernel_size: int,
        small_kernel_size: int = 5,
        mlp_ratio: float = 3.0,
        update_context: bool = True,
        drop_path: float = 0.0,
        merged: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        joined = dim + context_dim
        self.split = (dim, context_dim)
        self.x_scale = ChannelAffine(context_dim, **dd) if update_context else None
        self.h_scale = ChannelAffine(context_dim, **dd) if update_context else None
        self.dwconv1 = ResidualDepthwiseConv(joined, **dd)
        self.norm1 = LayerNorm2d(joined, eps=NORM_EPS, **dd)
        self.fusion = nn.Sequential(
            nn.Conv2d(joined, joined, 3, padding=1, groups=joined, **dd),
            nn.BatchNorm2d(joined, **dd),
            nn.GELU(),
            nn.Conv2d(joined, dim, 1, **dd),
            GlobalResponseNorm(dim, **dd),
        )
        self.mixer = GatedContMix(
            dim, context_dim, joined, 2 * num_heads, kernel_size, small_kernel_size, merged=merged, **dd
        )
        self.ls1 = ChannelAffine(joined, **dd)
        self.dwconv2 = ResidualDepthwiseConv(joined, **dd)
        self.norm2 = LayerNorm2d(joined, eps=NORM_EPS, **dd)
        self.mlp = ConvMlp(joined, int(dim * mlp_ratio), **dd)
        self.ls2 = ChannelAffine(joined, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """`(B, C + Cc, H, W)` and the reference context `(B, Cc, H, W)` to a new joined map."""
        if self.x_scale is not None:
            features, context = x.split(self.split, dim=1)
            x = torch.cat([features, self.x_scale(context) + self.h_scale(reference)], dim=1)
        x = self.dwconv1(x)
        normed = self.norm1(x)
        query, context = normed.split(self.split, dim=1)
        x = self.ls1(x) + self.drop_path(self.mixer(self.fusion(normed), query, context))
        x = self.dwconv2(x)
        return self.ls2(x) + self.drop_path(self.mlp(self.norm2(x)))


class FocusStage(Stage):
    """Focus blocks in a row, all with one reference context, which is the first map of the state."""

    takes_state = True

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.run_blocks(self.downsample(x), state[0])


class JointDownsample(nn.Module):
    """Features and context of a joined map, each through a 3x3 stride-2 convolution and BatchNorm of its own."""

    def __init__(self, in_dim: int, dim: int, context_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.split = (in_dim, context_dim)
        self.features = ConvNorm(in_dim, dim, 3, stride=2, device=device, dtype=dtype)
        self.context = ConvNorm(context_dim, context_dim, 3, stride=2, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features, context = x.split(self.split, dim=1)
        return torch.cat([self.features(features), self.context(context)], dim=1)


class OverviewStage(nn.Module):
    """Stride 16: the end of the base network, the overview network on top of it, and the first focus stage.

    Args:
        base: Downsampling to stride 16 and base blocks.
        overview: Downsampling to stride 32 and base blocks.
        context_proj: Overview map to context.
        focus: Focus blocks on [base map, context].

    Maps the stride-8 map to the joined stride-16 map and the state: the context and the overview map, both stride 32.
    """

    takes_state, gives_state = False, True

    def __init__(self, base: Stage, overview: Stage, context_proj: nn.Module, focus: FocusStage) -> None:
        super().__init__()
        for stage in (base, overview, focus):
            del stage.norm  # its output stays within this stage
        self.base = base
        self.overview = overview
        self.context_proj = context_proj
        self.focus = focus
        self.norm = nn.Identity()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        x = self.base(x)
        overview = self.overview(x)
        context = self.context_proj(overview)
        reference = F.interpolate(context, size=x.shape[2:], mode="bilinear")
        return self.focus(torch.cat([x, reference], dim=1), (reference,)), (context, overview)


class AuxHead(nn.Module):
    """BatchNorm, average pooling and a classifier on the overview map."""

    def __init__(self, in_features: int, num_classes: int, device=None, dtype=None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_features, device=device, dtype=dtype)
        self.fc = nn.Linear(in_features, num_classes, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(x).mean((2, 3)))
