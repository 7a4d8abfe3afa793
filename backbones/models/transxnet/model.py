"""TransXNet: dual dynamic token mixing (Lou et al., IEEE TNNLS 2025, arXiv 2310.19380).

- D-Mixer: half of the channels go through a depthwise convolution whose kernels depend on the image (IDConv), half
  through attention to a map that an overlapping strided convolution reduces (OSRA); a squeezed enhancer mixes them.
- The attention of all blocks of a stage shares one learned bias for every pair of positions at 224 pixels, resized for
  other maps.
- The MLP has depthwise convolutions of four kernel sizes in its hidden layer (MS-FFN).

Differences from the paper: the norms are over channels and positions together, not over channels; BatchNorm follows the
activation, but for the reductions; heads are counted on half of the channels; the position tables are decayed; the
384-pixel model is the 224-pixel one with its tables interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import (
    ClassifierHead,
    DropPath,
    GroupNorm1,
    calculate_drop_path_rates,
    register_notrace_module,
    to_2tuple,
)
from torch import nn

from backbones.layers.attention.reduction import OverlappingReductionAttention, PairBias
from backbones.layers.conv.basic import ConvNorm, ResidualDepthwiseConv
from backbones.layers.conv.dynamic import DynamicDepthwiseConv
from backbones.layers.conv.multiscale import MultiScaleDepthwiseConv
from backbones.layers.norm import ChannelAffine
from backbones.models.skeleton import HierarchicalModel, Stage
from backbones.ops.chunks import chunkable
from backbones.ops.fusion import fused


@register_notrace_module
class SqueezedTokenEnhancer(nn.Module):
    """`x + `: 3x3 depthwise convolution, GELU, BatchNorm, and a bottleneck of two 1x1 convolutions (section 3.3)."""

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        hidden = max(16, dim // 8)
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.conv1 = nn.Conv2d(dim, hidden, 1, **dd)
        self.norm2 = nn.BatchNorm2d(hidden, **dd)
        self.conv2 = nn.Conv2d(hidden, dim, 1, **dd)
        self.norm3 = nn.BatchNorm2d(dim, **dd)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(fused(self.dwconv, self.act)(x))
        y = self.norm2(fused(self.conv1, self.act)(y))
        return x + self.norm3(self.conv2(y))


class DMixer(nn.Module):
    """Dual dynamic token mixer (section 3): dynamic convolution beside reduced attention, then the enhancer.

    Args:
        dim: Channels C, even.
        kernel_size, num_groups: Of the dynamic convolution.
        num_heads, reduction: Of the attention.

    Maps `(B, C, H, W)` and the attention's bias to `(B, C, H, W)`.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int,
        num_groups: int,
        num_heads: int,
        reduction: int,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = DynamicDepthwiseConv(dim // 2, kernel_size, num_groups, **dd)
        self.attn = OverlappingReductionAttention(dim // 2, num_heads, reduction, **dd)
        self.proj = SqueezedTokenEnhancer(dim, **dd)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        local, distant = x.chunk(2, dim=1)
        mixed = torch.cat([self.conv(local).permute(0, 2, 3, 1), self.attn(distant, bias)], dim=-1)
        return self.proj(mixed.permute(0, 3, 1, 2))


@register_notrace_module
class MultiScaleMlp(nn.Module):
    """Pointwise MLP with residual depthwise convolutions of sides 1, 3, 5 and 7 in its hidden layer (section 3.4)."""

    def __init__(self, dim: int, hidden_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = nn.Conv2d(dim, hidden_dim, 1, bias=False, **dd)
        self.act = nn.GELU()
        self.norm1 = nn.BatchNorm2d(hidden_dim, **dd)
        self.dwconv = MultiScaleDepthwiseConv(hidden_dim, (1, 3, 5, 7), **dd)
        self.norm2 = nn.BatchNorm2d(hidden_dim, **dd)
        self.fc2 = nn.Conv2d(hidden_dim, dim, 1, bias=False, **dd)
        self.norm3 = nn.BatchNorm2d(dim, **dd)

    @chunkable(axis=2)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(fused(self.fc1, self.act)(x))
        x = self.norm2(self.act(x + self.dwconv(x)))
        return self.norm3(self.fc2(x))


class TransXBlock(nn.Module):
    """Positional convolution, D-Mixer and MS-FFN; maps `(B, C, H, W)` and the attention's bias to `(B, C, H, W)`."""

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp_ratio: float,
        layer_scale: float,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.dwconv = ResidualDepthwiseConv(dim, 7, **dd)
        self.norm1 = GroupNorm1(dim, **dd)
        self.mixer = mixer
        self.ls1 = ChannelAffine(dim, layer_scale, **dd)
        self.norm2 = GroupNorm1(dim, **dd)
        self.mlp = MultiScaleMlp(dim, int(dim * mlp_ratio), **dd)
        self.ls2 = ChannelAffine(dim, layer_scale, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = self.dwconv(x)
        x = x + self.drop_path(self.ls1(self.mixer(self.norm1(x), bias)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class TransXStage(Stage):
    """`downsample`, then `blocks` that share one bias of their attention."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None, attn_bias: nn.Module) -> None:
        super().__init__(blocks, downsample)
        self.attn_bias = attn_bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        return self.run_blocks(x, self.attn_bias(x))


class TransXNet(HierarchicalModel):
    """TransXNet in its published sizes.

    Args:
        dims: Channels of the four stages, even.
        depths: Blocks of the four stages.
        kernel_size: Side of the dynamic convolutions.
        num_groups: Kernels in the banks of the dynamic convolutions, one number a stage.
        num_heads: Heads of the attention, one number a stage; must divide half of the channels.
        reductions: Strides of the attention's reduced maps, one number a stage.
        mlp_ratios: Hidden width of the MLPs over the channels, one number a stage.
        img_size: Side, or `(H, W)`, of the images that the position tables are stored for; all others run too. None
            for 224 pixels, or for the size of a checkpoint's tables where they differ.
        layer_scale: Initial value of the layer scales.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.
    """

    normal_layers = (nn.Conv2d, nn.Linear)

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (48, 96, 224, 448),
        depths: Sequence[int] = (3, 3, 9, 3),
        kernel_size: int = 7,
        num_groups: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        mlp_ratios: Sequence[float] = (4.0, 4.0, 4.0, 4.0),
        img_size: int | tuple[int, int] | None = None,
        layer_scale: float = 1e-5,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        self.adopt_tables = img_size is None
        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            size = tuple(-(-side // 2 ** (i + 2)) for side in to_2tuple(img_size or 224))
            blocks = [
                TransXBlock(
                    dims[i],
                    DMixer(dims[i], kernel_size, num_groups[i], num_heads[i], reductions[i], **dd),
                    mlp_ratios[i],
                    layer_scale,
                    drop_path=rate,
                    **dd,
                )
                for rate in rates
            ]
            downsample = ConvNorm(dims[i - 1], dims[i], 3, stride=2, **dd) if i else None
            stages.append(TransXStage(blocks, downsample, PairBias(num_heads[i], size, reductions[i], **dd)))
        super().__init__(
            stem=ConvNorm(in_chans, dims[0], 7, stride=4, **dd),
            stages=stages,
            dims=dims,
            norm=GroupNorm1(dims[-1], **dd),
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Layer-decay groups; a stage's table belongs to its first block, as its downsampling does."""
        groups = super().group_matcher(coarse)
        if not coarse:
            groups["blocks"].insert(0, (r"^stages\.(\d+)\.attn_bias", (0,)))
        return groups
