"""NAT and DiNAT: neighborhood attention transformers.

- NAT (Hassani et al., CVPR 2023, arXiv 2204.07143): every pixel attends to the K x K pixels nearest to it; windows
  slide, and are shifted inwards at borders, never padded. A convolutional tokenizer and convolutional downsamplers.
- DiNAT (Hassani and Shi, arXiv 2209.15001): alternates NAT's attention with the same attention over a dilated grid.
- DiNAT_s: Swin's layout (patch embedding and patch merging) with both window attentions replaced.
- Isotropic NAT and DiNAT, and their global-attention baseline ViT-rpb: one 14 x 14 map throughout.

Differences from the paper: nat_s has layer scale and dinat_s (DiNAT-Small) has none; the 384 kernel-11 model keeps the
dilations of 224; the "in1k" DiNAT-Large and DiNAT_s-Large files are pre-trained on ImageNet-22K; the authors decay
tables of position bias on ImageNet, though their models ask not to, and not in detectors and segmentors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates
from torch import nn

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.attention.neighborhood import NeighborhoodAttention2d
from backbones.layers.block import MixerBlock
from backbones.layers.norm import LayerNorm2d
from backbones.layers.patch import PatchEmbed, PatchMerging
from backbones.models.skeleton import HierarchicalModel, Stage

HEAD_DIM = 32

# Dilations of each stage, cycled over its blocks; the largest is floor(map side / kernel) at the resolution named.
DILATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((1,), (1,), (1,), (1,)),
    "224": ((1, 8, 1), (1, 4), (1, 2), (1,)),
    "384": ((1, 13, 1), (1, 6), (1, 3), (1,)),
    "coco": ((1, 28, 1), (1, 7, 1, 14), (1, 3, 1, 5, 1, 7), (1, 3)),
    "ade20k": ((1, 16, 1), (1, 4, 1, 8), (1, 2, 1, 3, 1, 4), (1, 2)),
    "ade20k_640": ((1, 20, 1), (1, 5, 1, 10), (1, 2, 1, 3, 1, 4, 1, 5) * 2 + (1, 5), (1, 2)),
    "mask2former": ((1, 14, 1), (1, 4, 1, 7), (1, 2, 1, 3) * 4 + (1, 3), (1,)),
    "coco_s": ((1, 28), (1, 14), (1, 3, 1, 5, 1, 7), (1, 3)),
    "ade20k_s": ((1, 16), (1, 8), (1, 2, 1, 3, 1, 4), (1, 2)),
    "ade20k_640_s": ((1, 20), (1, 10), (1, 2, 1, 3, 1, 4, 1, 5) * 2 + (1, 5), (1, 2)),
}


class ConvTokenizer(nn.Module):
    """Two 3x3 stride-2 convolutions in a row (no activation between), then LayerNorm; stride 4."""

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd)
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd)
        self.norm = LayerNorm2d(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv2(self.conv1(x)))


class ConvDownsample(nn.Module):
    """3x3 stride-2 convolution without bias, then LayerNorm."""

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(in_dim, dim, 3, stride=2, padding=1, bias=False, device=device, dtype=dtype)
        self.norm = LayerNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.reduction(x))


class NAT(HierarchicalModel):
    """Neighborhood attention transformer in its four published layouts.

    Args:
        dims: Channels of the four stages; multiples of 32, the width of a head.
        depths: Blocks of the four stages.
        layout: "conv" (NAT, DiNAT), "patch" (DiNAT_s) or "isotropic" (one map at stride 16, `dims` all equal).
        kernel_size: Window side, odd; None for global attention with the bias table of a 14 x 14 map.
        dilations: Dilation of every block, stage by stage, or the name of a published setting in `DILATIONS`.
        mlp_ratio: Hidden width of the MLPs over the channels.
        layer_scale: Initial value of the layer scale, None for none.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.

    Raises:
        ValueError: Unknown layout or dilation setting, or dilations that do not fit the depths.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (3, 4, 6, 5),
        layout: str = "conv",
        kernel_size: int | None = 7,
        dilations: str | Sequence[Sequence[int]] = "none",
        mlp_ratio: float = 3.0,
        layer_scale: float | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        if layout == "conv":
            stem, downsample = ConvTokenizer(in_chans, dims[0], **dd), ConvDownsample
        elif layout == "patch":
            stem, downsample = PatchEmbed(in_chans, dims[0], 4, norm_eps=1e-5, **dd), PatchMerging
        elif layout == "isotropic":
            stem, downsample = PatchEmbed(in_chans, dims[0], 16, norm_eps=1e-5, **dd), None
        else:
            raise ValueError(f'layout must be "conv", "patch" or "isotropic", not {layout!r}')

        def attention(dim: int, dilation: int) -> nn.Module:
            if kernel_size is None:
                return GlobalAttention2d(dim, dim // HEAD_DIM, qkv_bias=True, map_size=(14, 14), **dd)
            return NeighborhoodAttention2d(dim, dim // HEAD_DIM, kernel_size, dilation, **dd)

        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, stage_dilations in enumerate(resolve_dilations(dilations, depths)):
            blocks = [
                MixerBlock(
                    dims[i],
                    attention(dims[i], dilation),
                    mlp_ratio=mlp_ratio,
                    layer_scale=layer_scale,
                    drop_path=rate,
                    **dd,
                )
                for dilation, rate in zip(stage_dilations, rates[i])
            ]
            stages.append(Stage(blocks, downsample(dims[i - 1], dims[i], **dd) if i and downsample else None))
        super().__init__(
            stem=stem,
            stages=stages,
            dims=dims,
            reductions=(16,) * 4 if layout == "isotropic" else (4, 8, 16, 32),
            norm=LayerNorm2d(dims[-1], **dd),
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )


def resolve_dilations(dilations: str | Sequence[Sequence[int]], depths: Sequence[int]) -> list[tuple[int, ...]]:
    """One dilation a block: a named setting of `DILATIONS`, cycled over the depths, or an explicit list, checked."""
    if isinstance(dilations, str):
        if dilations not in DILATIONS:
            raise ValueError(f"unknown dilations {dilations!r}; choose one of {', '.join(DILATIONS)} or give a list")
        return [tuple(p[i % len(p)] for i in range(n)) for p, n in zip(DILATIONS[dilations], depths)]
    if [len(stage) for stage in dilations] != list(depths):
        raise ValueError(f"dilations {dilations} must hold one number a block; the depths are {tuple(depths)}")
    return [tuple(stage) for stage in dilations]
