"""RAVLT: rank-augmented vision linear transformer (Fan, Huang and He, CVPR 2025, arXiv 2411.07635); and MAViT.

MAViT, the magnitude-aware vision transformer (Fan, Huang, Ai and He, ICCV 2025, arXiv 2507.00698), has another linear
attention and a wider head.

- Attention is linear in stages 1 and 2, where maps are large: RAVLT weights keys by how near they are to the mean
  query, MAViT lets products of queries and keys become sharper as queries grow. Stages 3 and 4 attend by softmax. All
  attention is gated by a projection of the input.
- Queries and keys are turned by rotary positions, which count rows and columns at any resolution. Every block begins
  with a depthwise convolution and has another in its MLP and one on its values.

Any image size: strided convolutions round up, and nothing else depends on the size.

Differences from the papers: their published FLOPs count convolutions alone; layer scales are decayed, as they are no
vectors in the authors' code. Of MAViT, products are divided by the root of a head's width before they are scaled and
shifted, and scale and shift are those of features without rotary positions, as in the published code. Neither code has
a licence file; the page of RAVLT's weights says MIT.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import calculate_drop_path_rates, register_notrace_module
from torch import nn

from backbones.layers.attention.linear_attention import (
    GatedRotaryAttention,
    MagnitudeAwareLinearAttention,
    RankAugmentedLinearAttention,
)
from backbones.layers.block import DepthwiseMixerBlock
from backbones.layers.conv.basic import ConvNorm
from backbones.layers.head import ConvHead
from backbones.models.skeleton import HierarchicalModel, Stage
from backbones.ops.chunks import chunkable
from backbones.ops.fusion import fused


@register_notrace_module
class Stem(nn.Module):
    """Four 3x3 convolutions, of stride 2, 1, 1 and 2, each with BatchNorm, all but the last with GELU."""

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd)
        self.norm1 = nn.BatchNorm2d(dim // 2, **dd)
        self.conv2 = nn.Conv2d(dim // 2, dim // 2, 3, padding=1, **dd)
        self.norm2 = nn.BatchNorm2d(dim // 2, **dd)
        self.conv3 = nn.Conv2d(dim // 2, dim // 2, 3, padding=1, **dd)
        self.norm3 = nn.BatchNorm2d(dim // 2, **dd)
        self.conv4 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd)
        self.norm4 = nn.BatchNorm2d(dim, **dd)
        self.act = nn.GELU()

    @chunkable(axis=2)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = fused(self.conv1, self.norm1, self.act)(x)
        x = fused(self.conv2, self.norm2, self.act)(x)
        x = fused(self.conv3, self.norm3, self.act)(x)
        return fused(self.conv4, self.norm4)(x)


class RAVLT(HierarchicalModel):
    """Rank-augmented vision linear transformer.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        num_heads: Heads of attention in each stage.
        mixers: Attention of each stage: "linear" or "softmax".
        mlp_ratio: Hidden width of the MLPs over the channels.
        layer_scales: Initial value of the layer scales in each stage, None for none.
        head_size: Width of the hidden layer before the classifier.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.

    Raises:
        ValueError: Unknown mixer, or heads that do not divide the channels into multiples of 4.
    """

    linear_attention: type[nn.Module] = RankAugmentedLinearAttention
    normal_layers = (nn.Linear, nn.Conv2d)

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        mixers: Sequence[str] = ("linear", "linear", "softmax", "softmax"),
        mlp_ratio: float = 3.5,
        layer_scales: Sequence[float | None] = (1.0, 1.0, 1.0, 1.0),
        head_size: int = 1024,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        kinds = {"linear": self.linear_attention, "softmax": GatedRotaryAttention}
        if len(mixers) != len(dims) or not set(mixers) <= set(kinds):
            raise ValueError(f'mixers must be "linear" or "softmax" for each of {len(dims)} stages, not {mixers!r}')
        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            mixer = kinds[mixers[i]]
            blocks = [
                DepthwiseMixerBlock(dims[i], mixer(dims[i], num_heads[i], **dd), mlp_ratio, layer_scales[i], rate, **dd)
                for rate in rates
            ]
            downsample = ConvNorm(dims[i - 1], dims[i], 3, stride=2, bias=True, **dd) if i else None
            stages.append(Stage(blocks, downsample))
        super().__init__(
            stem=Stem(in_chans, dims[0], **dd),
            stages=stages,
            dims=dims,
            head=ConvHead(dims[-1], num_classes, head_size, global_pool, drop_rate, bias=True, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )


class MAViT(RAVLT):
    """Magnitude-aware vision transformer; the arguments are those of `RAVLT`."""

    linear_attention = MagnitudeAwareLinearAttention
