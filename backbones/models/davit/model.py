"""DaViT: dual attention vision transformer (Ding et al., ECCV 2022, arXiv 2204.03645).

- Blocks come in pairs: attention among the positions of 7 x 7 windows, then attention among channels over the whole
  map, in groups of 32, at a cost linear in the number of positions. So windows need no shift.
- No position tables: two residual depthwise convolutions a block carry positions.

Differences from the paper: in channel attention the products of keys and values weight the queries; positions are
encoded before attention and before the MLP; padding of windows is attended to. timm's DaViTs compute the same for any
image, more slowly in inference on CPU, and train with a rate of stochastic depth a pair, not the authors' one a block.
Their weights load here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from timm.layers import NormMlpClassifierHead, calculate_drop_path_rates
from torch import nn

from backbones.layers.attention.channel import ChannelAttention
from backbones.layers.attention.window import WindowAttention
from backbones.layers.block import MixerBlock
from backbones.layers.conv.basic import ResidualDepthwiseConv
from backbones.layers.norm import LayerNorm2d
from backbones.layers.patch import NormDownsample, OverlappingPatchEmbed
from backbones.models.skeleton import HierarchicalModel, Stage

HEAD_DIM = 32


class DaViTBlock(MixerBlock):
    """Attention and MLP with pre-norm, each after a residual depthwise convolution; keeps `(B, C, H, W)`.

    Args:
        dim: Channels C.
        mixer: Attention, from `(B, H, W, C)` to `(B, H, W, C)`.
        mlp_ratio: Hidden width of the MLP is `int(C * mlp_ratio)`.
        drop_path: Stochastic depth rate of both branches.
    """

    def __init__(
        self, dim: int, mixer: nn.Module, mlp_ratio: float = 4.0, drop_path: float = 0.0, device=None, dtype=None
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, mixer, mlp_ratio, drop_path=drop_path, **dd)
        self.cpe1 = ResidualDepthwiseConv(dim, **dd)
        self.cpe2 = ResidualDepthwiseConv(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cpe1(x).permute(0, 2, 3, 1)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        x = self.cpe2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2)


class DaViT(HierarchicalModel):
    """Dual attention vision transformer.

    Takes images of any size. As in the authors' code, maps are zero-padded below and right where windows or cells of
    downsampling do not divide them, and windows attend to that padding too.

    Args:
        dims: Channels of the four stages; multiples of 32, the width of heads and of groups of channels.
        depths: Pairs of blocks of the four stages.
        window_size: Side of the windows, or `(rows, columns)`. Any window loads the same weights.
        mlp_ratio: Hidden width of the MLPs over the channels.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.

    Raises:
        ValueError: Widths that are no multiples of 32.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (1, 1, 3, 1),
        window_size: int | tuple[int, int] = 7,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        if any(dim % HEAD_DIM for dim in dims):
            raise ValueError(f"dims {tuple(dims)} must be multiples of {HEAD_DIM}, the width of an attention head")
        dd = {"device": device, "dtype": dtype}

        def mixer(dim: int, block: int) -> nn.Module:
            heads = dim // HEAD_DIM
            if block % 2:
                return ChannelAttention(dim, heads, **dd)
            return WindowAttention(dim, heads, window_size, rel_pos_bias=False, mask_padding=False, **dd)

        stages = []
        rates = calculate_drop_path_rates(drop_path_rate, [2 * depth for depth in depths], stagewise=True)
        for i, (dim, stage_rates) in enumerate(zip(dims, rates)):
            blocks = [DaViTBlock(dim, mixer(dim, j), mlp_ratio, rate, **dd) for j, rate in enumerate(stage_rates)]
            stages.append(Stage(blocks, NormDownsample(dims[i - 1], dim, **dd) if i else None))
        super().__init__(
            stem=OverlappingPatchEmbed(in_chans, dims[0], 7, 4, **dd),
            stages=stages,
            dims=dims,
            head=NormMlpClassifierHead(
                dims[-1],
                num_classes,
                pool_type=global_pool,
                drop_rate=drop_rate,
                norm_layer=partial(LayerNorm2d, eps=1e-5),
                **dd,
            ),
            num_classes=num_classes,
            in_chans=in_chans,
        )
