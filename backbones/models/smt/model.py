"""SMT: scale-aware modulation transformer.

Lin, Wu, Chen, Huang and Jin, ICCV 2023, arXiv 2307.08579. Early stages multiply values by a context of depthwise
convolutions of four sizes; the third stage alternates this modulation with global attention, the last is all attention.
No position encoding but depthwise convolutions on values and in MLPs.

Differences from the paper: paper and README count SMT-S as 20.5 M to 21 M parameters, but its published depths and
weights have 22.6 M; the authors' dense code calls the convolution on values by another name than their classifiers, so
that theirs starts at random there, and it has no layer scale, so that the large model does not fit it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates
from torch import nn

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.block import MixerBlock
from backbones.layers.conv.basic import DepthwiseMlp
from backbones.layers.conv.modulation import ScaleAwareModulation
from backbones.layers.init import init_fan_out
from backbones.layers.norm import LayerNorm2d
from backbones.models.skeleton import HierarchicalModel, Stage

NORM_EPS = 1e-6  # of blocks and stages; the norms of stem and downsampling have 1e-5


class Stem(nn.Module):
    """Stride-2 convolution, BatchNorm, ReLU, 2x2 stride-2 convolution, LayerNorm; stride 4."""

    def __init__(self, in_chans: int, dim: int, kernel_size: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_chans, dim, kernel_size, stride=2, padding=kernel_size // 2, bias=False, **dd)
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(dim, dim, 2, stride=2, **dd)
        self.norm2 = LayerNorm2d(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))


class SMT(HierarchicalModel):
    """Scale-aware modulation transformer.

    Args:
        dims: Channels of the four stages; multiples of the number of modulation kernels, and of the heads.
        depths: Blocks of the four stages.
        mixers: Token mixers of each stage's blocks, repeated: "m" for modulation, "a" for attention.
        num_heads: Heads of attention in each stage.
        kernel_sizes: Depthwise kernels of modulation.
        expand_ratio: Inner width of modulation over the channels.
        mlp_ratios: Hidden width of the MLPs over the channels, stage by stage.
        stem_kernel_size: Of the image convolution.
        layer_scale: Initial value of the layer scale, None for none.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.

    Raises:
        ValueError: Unknown mixer, or heads or kernels that do not divide the channels.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 8, 1),
        mixers: Sequence[str] = ("m", "m", "ma", "a"),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        expand_ratio: int = 2,
        mlp_ratios: Sequence[float] = (4, 4, 4, 2),
        stem_kernel_size: int = 3,
        layer_scale: float | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        unknown = set("".join(mixers)) - {"m", "a"}
        if unknown or not all(mixers):
            raise ValueError(f'mixers must be strings of "m" and "a", one a stage, not {tuple(mixers)}')

        def mixer(i: int, j: int) -> nn.Module:
            if mixers[i][j % len(mixers[i])] == "m":
                return ScaleAwareModulation(dims[i], kernel_sizes, expand_ratio, **dd)
            return GlobalAttention2d(dims[i], num_heads[i], qkv_bias=True, lepe_kernel=3, **dd)

        def downsample(in_dim: int, dim: int) -> nn.Module:
            conv = nn.Conv2d(in_dim, dim, 3, stride=2, padding=1, **dd)
            return nn.Sequential(OrderedDict(proj=conv, norm=LayerNorm2d(dim, **dd)))

        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, dim in enumerate(dims):
            blocks = [
                MixerBlock(
                    dim,
                    mixer(i, j),
                    norm_eps=NORM_EPS,
                    layer_scale=layer_scale,
                    drop_path=rate,
                    mlp=DepthwiseMlp(dim, int(dim * mlp_ratios[i]), **dd),
                    **dd,
                )
                for j, rate in enumerate(rates[i])
            ]
            before = downsample(dims[i - 1], dim) if i else None
            stages.append(Stage(blocks, before, LayerNorm2d(dim, eps=NORM_EPS, **dd)))
        super().__init__(
            stem=Stem(in_chans, dims[0], stem_kernel_size, **dd),
            stages=stages,
            dims=dims,
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )

    def _init_weights(self, module: nn.Module, name: str) -> None:
        if isinstance(module, nn.Conv2d):
            init_fan_out(module)
        else:
            super()._init_weights(module, name)
