"""L2ViT: linear attention in a vision transformer (Zheng, arXiv 2501.16182).

- Blocks take turns: attention within windows, without shifts, and linear attention of all positions by ReLU features.
- Linear attention spreads its weights widely. A branch of two depthwise convolutions concentrates them locally.
- Residual depthwise convolutions give positions, before every attention, and after that within windows.

Any image size: images and maps are zero-padded below and right, to what stem, downsampling and windows divide. As in
the authors' code, windows attend to padding.

Differences from the paper: sums of the linear attention are divided by 100 at least, see `ReLULinearAttention`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead, DropPath, calculate_drop_path_rates, register_notrace_module
from torch import nn

from backbones.layers.attention.relu_linear import ReLULinearAttention
from backbones.layers.attention.window import WindowAttention
from backbones.layers.block import MixerBlock
from backbones.layers.conv.basic import ResidualDepthwiseConv
from backbones.layers.norm import LayerNorm2d
from backbones.layers.patch import NormDownsample, pad_to_multiple
from backbones.models.skeleton import HierarchicalModel, Stage
from backbones.ops.chunks import chunkable
from backbones.ops.fusion import fused


@register_notrace_module
class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2 with BatchNorm, ReLU between them, LayerNorm after.

    Maps `(B, in_chans, H, W)` to `(B, C, ceil(H / 4), ceil(W / 4))`.
    """

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd)
        self.norm1 = nn.BatchNorm2d(dim // 2, **dd)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd)
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.norm3 = LayerNorm2d(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = fused(self.conv1, self.norm1, self.act)(pad_to_multiple(x, 4))
        return self.norm3(fused(self.conv2, self.norm2)(x))


@register_notrace_module
class LocalConcentration(nn.Module):
    """7x7 depthwise convolution, GELU, BatchNorm, 7x7 depthwise convolution: `(B, C, H, W)` to the same shape."""

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(dim, dim, 7, padding=3, groups=dim, **dd)
        self.act = nn.GELU()
        self.norm = nn.BatchNorm2d(dim, **dd)
        self.conv2 = nn.Conv2d(dim, dim, 7, padding=3, groups=dim, **dd)

    @chunkable(axis=2)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.norm(fused(self.conv1, self.act)(x)))


class WindowBlock(MixerBlock):
    """Attention within windows and MLP, each after a residual depthwise convolution.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        window_size: Side of the windows.
        mlp_ratio: Hidden width of the MLP is `int(C * mlp_ratio)`.
        drop_path: Stochastic depth rate of both branches.

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        attention = WindowAttention(dim, num_heads, window_size, rel_pos_bias=False, mask_padding=False, **dd)
        super().__init__(dim, attention, mlp_ratio, drop_path=drop_path, **dd)
        self.pos_embed1 = ResidualDepthwiseConv(dim, **dd)
        self.pos_embed2 = ResidualDepthwiseConv(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pos_embed1(x).permute(0, 2, 3, 1)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        x = self.pos_embed2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2)


class LinearBlock(MixerBlock):
    """Residual depthwise convolution, then linear attention, local concentration and MLP, each added to its input.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        mlp_ratio: Hidden width of the MLP is `int(C * mlp_ratio)`.
        drop_path: Stochastic depth rate of the three branches.

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0, device=None, dtype=None
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, ReLULinearAttention(dim, num_heads, **dd), mlp_ratio, drop_path=drop_path, **dd)
        self.pos_embed1 = ResidualDepthwiseConv(dim, **dd)
        self.norm3 = nn.LayerNorm(dim, **dd)
        self.local = LocalConcentration(dim, **dd)
        self.drop_path3 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pos_embed1(x).permute(0, 2, 3, 1)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        local = self.local(self.norm3(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.drop_path3(local)
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2)


class L2ViT(HierarchicalModel):
    """Vision transformer with linear global and local window attention.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        dims: Channels of the four stages.
        depths: Blocks of the four stages; those of odd number in a stage have linear attention.
        num_heads: Heads of the four stages.
        window_size: Side of the windows.
        mlp_ratio: Hidden width of the MLPs over the channels.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.

    Raises:
        ValueError: Heads that do not divide the channels.
    """

    normal_layers = (nn.Linear, nn.Conv2d)

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            blocks = [
                LinearBlock(dims[i], num_heads[i], mlp_ratio, rate, **dd)
                if j % 2
                else WindowBlock(dims[i], num_heads[i], window_size, mlp_ratio, rate, **dd)
                for j, rate in enumerate(rates)
            ]
            stages.append(Stage(blocks, NormDownsample(dims[i - 1], dims[i], **dd) if i else None))
        super().__init__(
            stem=Stem(in_chans, dims[0], **dd),
            stages=stages,
            dims=dims,
            norm=LayerNorm2d(dims[-1], **dd),
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )
