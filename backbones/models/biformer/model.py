"""BiFormer: vision transformer with bi-level routing attention (Zhu et al., CVPR 2023, arXiv 2303.08810).

- Bi-level routing attention in stages 1 to 3: the map is cut into a fixed number of regions, each region keeps the few
  regions most alike by their mean query and key, and its tokens attend to all tokens of those only.
- Full attention in stage 4, where the paper routes every region to every other.
- A depthwise convolution before each block as position encoding, and one on the values (LePE).
- BiFormer-STL: the same attention in Swin-T's layout, the paper's ablation; `_nchw` is its later, refactored form.

Differences from the paper: routed attention scales its logits by the whole width ** -0.5, full attention by (width of a
head) ** -0.5 with 8 heads at every width; LePE of full attention reads the block's input, in the nchw model the values;
padding is never masked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates
from torch import nn

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.attention.routing import BiLevelRoutingAttention
from backbones.layers.block import MixerBlock
from backbones.layers.conv.basic import ConvNorm
from backbones.models.skeleton import HierarchicalModel, Stage

HEAD_DIM = 32  # of routed attention
GLOBAL_HEADS = 8


class BiFormerBlock(MixerBlock):
    """`x + depthwise_conv(x)`, then the attention and MLP branches of `MixerBlock` (section 4.1, figure 4).

    Takes the arguments of `MixerBlock`; maps `(B, C, H, W)` to `(B, C, H, W)`.
    """

    def __init__(self, dim: int, mixer: nn.Module, device=None, dtype=None, **kwargs) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, mixer, **kwargs, **dd)
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + self.pos_embed(x))


def _conv_stem(in_chans: int, dim: int, **dd) -> nn.Module:
    """Two 3x3 stride-2 convolutions, each with BatchNorm, GELU between them; stride 4."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd),
            norm1=nn.BatchNorm2d(dim // 2, **dd),
            act=nn.GELU(),
            conv2=nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd),
            norm2=nn.BatchNorm2d(dim, **dd),
        )
    )


def _patch_stem(in_chans: int, dim: int, **dd) -> nn.Module:
    """4x4 patches, BatchNorm."""
    conv = nn.Conv2d(in_chans, dim, 4, stride=4, **dd)
    return nn.Sequential(OrderedDict(conv1=conv, norm1=nn.BatchNorm2d(dim, **dd)))


def _patch_downsample(in_dim: int, dim: int, **dd) -> nn.Module:
    """BatchNorm, then 2x2 patches."""
    conv = nn.Conv2d(in_dim, dim, 2, stride=2, **dd)
    return nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(in_dim, **dd), conv=conv))


class BiFormer(HierarchicalModel):
    """BiFormer in its published layouts.

    Args:
        dims: Channels of the four stages; multiples of 32 where attention is routed, of 8 where it is global.
        depths: Blocks of the four stages.
        layout: "conv" (T, S, B: overlapping convolutions, a depthwise convolution before each block) or "patch" (STL).
        n_win: Regions a side; published: 7 for 224 pixels, 8 for ADE20K, 16 for COCO. No weight depends on it.
        topks: Regions that a region attends to, one number a stage; None for global attention.
        pad: How maps that `n_win` does not divide are padded: "input", or "qkv" as in the nchw model
            (see `BiLevelRoutingAttention`).
        global_lepe: What the depthwise convolution of global attention reads, "x" or "v".
        mlp_ratio: Hidden width of the MLPs over the channels.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.

    Raises:
        ValueError: Unknown layout, or sizes that do not fit.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 8, 2),
        layout: str = "conv",
        n_win: int = 7,
        topks: Sequence[int | None] = (1, 4, 16, None),
        pad: str = "input",
        global_lepe: str = "x",
        mlp_ratio: float = 3.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        if layout == "conv":
            stem, block = _conv_stem, BiFormerBlock
            downsample = partial(ConvNorm, kernel_size=3, stride=2, bias=True)
        elif layout == "patch":
            stem, block, downsample = _patch_stem, MixerBlock, _patch_downsample
        else:
            raise ValueError(f'layout must be "conv" or "patch", not {layout!r}')

        def attention(dim: int, topk: int | None) -> nn.Module:
            if topk is None:
                return GlobalAttention2d(dim, GLOBAL_HEADS, lepe_kernel=5, lepe_input=global_lepe, **dd)
            if dim % HEAD_DIM:
                raise ValueError(f"dims of routed stages must be multiples of {HEAD_DIM}, not {dim}")
            return BiLevelRoutingAttention(dim, dim // HEAD_DIM, n_win, topk, pad=pad, **dd)

        self._default_init = pad == "qkv"
        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            blocks = [
                block(dims[i], attention(dims[i], topks[i]), mlp_ratio=mlp_ratio, norm_eps=1e-6, drop_path=rate, **dd)
                for rate in rates
            ]
            stages.append(Stage(blocks, downsample(dims[i - 1], dims[i], **dd) if i else None))
        super().__init__(
            stem=stem(in_chans, dims[0], **dd),
            stages=stages,
            dims=dims,
            norm=nn.BatchNorm2d(dims[-1], **dd),
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )

    def _init_weights(self, module: nn.Module, name: str) -> None:
        # The nchw model's projections are 1x1 convolutions, which its authors leave at PyTorch's default.
        if not (self._default_init and name.startswith("stages.")):
            super()._init_weights(module, name)
