"""STViT, or SViT: vision transformer with super token sampling (Huang et al., CVPR 2023, arXiv 2211.11167).

- In stages 1 and 2 attention is among super tokens: means of the map, weighted by how near positions are to them in
  content, one for each cell of a grid. Stages 3 and 4 attend to all positions.
- There is no position encoding but depthwise convolutions, one before the attention and one in the MLP of every block.
- Attention follows a LayerNorm, the MLP a BatchNorm; the stem has BatchNorm after GELU.

Any image size: maps that cells of super tokens do not divide are zero-padded below and right, as in the authors' code.

Differences from the paper: the softmax over super tokens includes those outside of the grid, as zero vectors; layer
scales of the larger models are decayed, as they are no vectors in the authors' code. That code's header says MIT, but
there is no licence file, and none is stated for the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import calculate_drop_path_rates, register_notrace_module
from torch import nn

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.attention.super_token import SuperTokenAttention
from backbones.layers.block import DepthwiseMixerBlock
from backbones.layers.conv.basic import ConvNorm
from backbones.layers.head import ConvHead
from backbones.models.skeleton import HierarchicalModel, Stage
from backbones.ops.chunks import chunkable
from backbones.ops.fusion import fused


@register_notrace_module
class Stem(nn.Module):
    """Four 3x3 convolutions, of stride 2, 1, 2 and 1, each with GELU and then BatchNorm."""

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd)
        self.norm1 = nn.BatchNorm2d(dim // 2, **dd)
        self.conv2 = nn.Conv2d(dim // 2, dim // 2, 3, padding=1, **dd)
        self.norm2 = nn.BatchNorm2d(dim // 2, **dd)
        self.conv3 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd)
        self.norm3 = nn.BatchNorm2d(dim, **dd)
        self.conv4 = nn.Conv2d(dim, dim, 3, padding=1, **dd)
        self.norm4 = nn.BatchNorm2d(dim, **dd)
        self.act = nn.GELU()

    @chunkable(axis=2)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(fused(self.conv1, self.act)(x))
        x = self.norm2(fused(self.conv2, self.act)(x))
        x = self.norm3(fused(self.conv3, self.act)(x))
        return self.norm4(fused(self.conv4, self.act)(x))


class STViT(HierarchicalModel):
    """Vision transformer with super token sampling.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        num_heads: Heads of attention in each stage.
        cell_sizes: Positions a side of the cells that super tokens begin as, stage by stage; 1 for attention of all
            positions to all.
        num_iters: How often each stage computes the super tokens' weights.
        mlp_ratio: Hidden width of the MLPs over the channels.
        layer_scales: Initial value of the layer scales in each stage, None for none.
        head_size: Width of the hidden layer before the classifier.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.

    Raises:
        ValueError: Heads that do not divide the channels, or a cell or a number of iterations below 1.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 5, 9, 3),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        cell_sizes: Sequence[int | tuple[int, int]] = (8, 4, 1, 1),
        num_iters: Sequence[int] = (1, 1, 1, 1),
        mlp_ratio: float = 4.0,
        layer_scales: Sequence[float | None] = (None, None, None, None),
        head_size: int = 1024,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}

        def mixer(i: int) -> nn.Module:
            if cell_sizes[i] in (1, (1, 1)):
                return GlobalAttention2d(dims[i], num_heads[i], qkv_bias=True, **dd)
            return SuperTokenAttention(dims[i], num_heads[i], cell_sizes[i], num_iters[i], **dd)

        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            blocks = [
                DepthwiseMixerBlock(dims[i], mixer(i), mlp_ratio, layer_scales[i], rate, mlp_norm="batch", **dd)
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

    def _init_weights(self, module: nn.Module, name: str) -> None:
        # All other linears are 1x1 convolutions in the paper, which start as torch's do.
        if name.startswith("head."):
            super()._init_weights(module, name)
