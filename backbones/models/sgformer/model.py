"""SG-Former: self-guided transformer with evolving token reallocation (Ren et al., ICCV 2023, arXiv 2308.12216).

- Blocks of stages 1 to 3 come in pairs. The first attends to a reduced map and within windows, and finds from both
  how significant every position is. The second attends to few tokens, each the sum of a run of positions sorted by
  significance: many insignificant positions make one token, few significant ones.
- The last stage attends to all positions. All attention has a local position encoding, all MLPs a depthwise
  convolution, and a position table follows the stem.

Any image size: maps are padded below and right to whole windows and reduced positions, runs of sorted positions are
filled up, and the position table is resized (bicubic); the authors' code takes multiples of 224 pixels only.

Differences from the paper: norms of stem and downsampling are GroupNorms of one group, though the authors' keys say
BatchNorm; the position table is trained and decayed; the sort by rows and that by columns are one (see
`SelfGuidedAttention`). Significance is sorted, so that rounding exchanges near neighbours: outputs in single precision
differ from those in double by a tenth or more of their deviation, in the authors' code too. Neither the code nor the
weights state a licence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import (
    ClassifierHead,
    GroupNorm1,
    calculate_drop_path_rates,
    register_notrace_module,
    to_2tuple,
)
from timm.models import checkpoint
from torch import nn

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.block import MixerBlock
from backbones.layers.conv.basic import DepthwiseMlp
from backbones.layers.init import init_fan_out
from backbones.layers.norm import LayerNorm2d
from backbones.models.sgformer.attention import HybridScaleAttention, ProjectedLePE, SelfGuidedAttention
from backbones.models.skeleton import HierarchicalModel, Stage
from backbones.ops.sizes import is_symbolic, static_size

NORM_EPS = 1e-6  # of blocks and stages; all other norms have 1e-5
RUN_LENGTHS = {8: (196, 56, 28), 4: (49, 14, 7), 2: (2, 1)}  # by the reduction of the stage


@register_notrace_module
class Stem(nn.Module):
    """Three 3x3 convolutions, the first and the last of stride 2, and a position table.

    Args:
        in_chans: Image channels.
        dim: Channels C, a multiple of 4.
        map_size: `(H, W)` of the position table; it is resized for other maps.

    Maps `(B, in_chans, H, W)` to `(B, C, H / 4, W / 4)`.
    """

    def __init__(self, in_chans: int, dim: int, map_size: tuple[int, int], device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_chans, dim, 3, stride=2, padding=1, bias=False, **dd)
        self.norm1 = GroupNorm1(dim, **dd)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False, **dd)
        self.norm2 = GroupNorm1(dim, **dd)
        self.conv3 = nn.Conv2d(dim, dim, 3, stride=2, padding=1, bias=False, **dd)
        self.norm3 = GroupNorm1(dim, **dd)
        self.norm4 = LayerNorm2d(dim, **dd)
        self.act = nn.GELU()
        self.pos_embed = nn.Parameter(torch.empty(1, *map_size, dim, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.pos_embed.copy_(sine_cosine(*self.pos_embed.shape[1:], self.pos_embed.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)))
        x = self.norm4(self.norm3(self.conv3(x)))
        return x + resized(self.pos_embed, static_size(x.shape[2]), static_size(x.shape[3])).permute(0, 3, 1, 2)


def sine_cosine(height: int, width: int, dim: int, device: torch.device | None = None) -> torch.Tensor:
    """`(1, H, W, C)`: sines and cosines of the column in one half of the channels, of the row in the other."""
    frequencies = 10000 ** (-torch.arange(dim // 4, dtype=torch.float64, device=device) / (dim // 4))

    def encoded(count: int) -> torch.Tensor:
        angles = torch.arange(count, device=device)[:, None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), -1)

    columns, rows = encoded(width)[None].expand(height, -1, -1), encoded(height)[:, None].expand(-1, width, -1)
    return torch.cat((columns, rows), -1)[None]


def resized(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A position table `(1, H', W', C)` for another map, by bicubic interpolation."""
    # A graph for many sizes must hold at the table's own size too, so it always resizes; there, nothing changes.
    if not is_symbolic(height, width) and (height, width) == tuple(table.shape[1:3]):
        return table
    image = table.permute(0, 3, 1, 2).to(torch.promote_types(table.dtype, torch.float32))
    image = F.interpolate(image, size=(height, width), mode="bicubic", align_corners=False)
    return image.permute(0, 2, 3, 1).to(table.dtype)


class Downsample(nn.Module):
    """1x1 convolution, 3x3 depthwise convolution of stride 2, 1x1 convolution, each with GroupNorm; GELU between."""

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_dim, dim, 1, bias=False, **dd)
        self.norm1 = GroupNorm1(dim, **dd)
        self.conv2 = nn.Conv2d(dim, dim, 3, stride=2, padding=1, groups=dim, bias=False, **dd)
        self.norm2 = GroupNorm1(dim, **dd)
        self.conv3 = nn.Conv2d(dim, dim, 1, bias=False, **dd)
        self.norm3 = GroupNorm1(dim, **dd)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)))
        return self.norm3(self.conv3(x))


class SGBlock(MixerBlock):
    """Pre-norm block whose mixer takes and returns a significance map `(B, H, W)`, or None, too."""

    def forward(
        self, x: torch.Tensor, significance: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        x = x.permute(0, 2, 3, 1)
        mixed, significance = self.attn(self.norm1(x), significance)
        x = x + self.drop_path1(self.ls1(mixed))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2), significance


class GuidedStage(Stage):
    """`downsample`, then `blocks` of `SGBlock`, each of which hands a significance map to the next."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, significance = self.downsample(x), None
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x, significance = checkpoint(block, x, significance)
            else:
                x, significance = block(x, significance)
        return x


class SGFormer(HierarchicalModel):
    """Self-guided transformer.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        num_heads: Heads of attention in each stage.
        reductions: Stride of the reduced map in each stage: 8, 4 or 2; 1 for attention of all positions to all.
        window_size: Side of the windows.
        mlp_ratios: Hidden width of the MLPs over the channels, stage by stage.
        img_size: Side of the images that the position table is stored for, or `(height, width)`; any size is taken.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.

    Raises:
        ValueError: Another reduction, or heads that are odd or do not divide the channels.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 4, 16, 1),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        reductions: Sequence[int] = (8, 4, 2, 1),
        window_size: int = 7,
        mlp_ratios: Sequence[float] = (4.0, 4.0, 4.0, 4.0),
        img_size: int | tuple[int, int] = 224,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        if set(reductions) - {1, *RUN_LENGTHS}:
            raise ValueError(f"reductions must be 8, 4, 2 or 1, not {tuple(reductions)}")

        def mixer(i: int, j: int) -> nn.Module:
            if reductions[i] == 1:
                lepe = ProjectedLePE(dims[i], **dd)
                return GlobalAttention2d(dims[i], num_heads[i], qkv_bias=True, lepe=lepe, lepe_input="x", **dd)
            if j % 2 == 0:
                return HybridScaleAttention(dims[i], num_heads[i], reductions[i], window_size, **dd)
            return SelfGuidedAttention(dims[i], num_heads[i], RUN_LENGTHS[reductions[i]], **dd)

        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, dim in enumerate(dims):
            block, stage = (MixerBlock, Stage) if reductions[i] == 1 else (SGBlock, GuidedStage)
            blocks = [
                block(
                    dim,
                    mixer(i, j),
                    norm_eps=NORM_EPS,
                    drop_path=rate,
                    mlp=DepthwiseMlp(dim, int(dim * mlp_ratios[i]), **dd),
                    **dd,
                )
                for j, rate in enumerate(rates[i])
            ]
            before = Downsample(dims[i - 1], dim, **dd) if i else None
            stages.append(stage(blocks, before, LayerNorm2d(dim, eps=NORM_EPS, **dd)))
        height, width = (-(-side // 4) for side in to_2tuple(img_size))
        super().__init__(
            stem=Stem(in_chans, dims[0], (height, width), **dd),
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
