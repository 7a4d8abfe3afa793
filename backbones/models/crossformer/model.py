"""CrossFormer (Wang et al., ICLR 2022, arXiv 2108.00154) and CrossFormer++ (TPAMI 2023, arXiv 2303.06908).

- Patches are embedded, and merged between stages, by convolutions of several kernels, so that a token holds several
  scales.
- Blocks alternate between attention among neighbours and among positions at an interval; the position bias is an MLP of
  the offset, so that groups may have any size.
- CrossFormer++ lets groups grow with depth (4, 4, 14, 7) and adds a cooling layer after every third block of a stage.

Differences from the papers: the width of the bias's MLP is a sixteenth of the channels, not a quarter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from timm.layers import ClassifierHead, calculate_drop_path_rates
from torch import nn

from backbones.layers.conv.multiscale import CrossScaleConv
from backbones.layers.norm import LayerNorm2d
from backbones.models.crossformer.blocks import CrossFormerAttention, CrossFormerBlock
from backbones.models.skeleton import HierarchicalModel, Stage

PATCH_KERNELS, MERGE_KERNELS = (4, 8, 16, 32), (2, 4)


class CrossFormer(HierarchicalModel):
    """CrossFormer and CrossFormer++.

    Takes images of any size: maps that the groups do not divide are padded, and the padding masked.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        dim: Channels of the first stage; each later stage has twice those before it.
        depths: Blocks of the four stages.
        num_heads: Heads of the four stages.
        group_sizes: Side of the groups that attend, stage by stage.
        intervals: Interval of every other block's groups, stage by stage.
        grouping: How maps of other sizes than those of 224 x 224 images are grouped, see `CrossFormerAttention`.
        cooling: Cooling layers after every third block of a stage but its last.
        mlp_ratio: Hidden width of the MLPs over the channels.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.

    Raises:
        ValueError: Heads that do not divide the channels, or an unknown `grouping`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        group_sizes: Sequence[int] = (7, 7, 7, 7),
        intervals: Sequence[int] = (8, 4, 2, 1),
        grouping: str = "classifier",
        cooling: bool = False,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        dims = [dim * 2**i for i in range(len(depths))]
        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            blocks = []
            for j, rate in enumerate(rates):
                interval = intervals[i] if j % 2 else 1
                attention = CrossFormerAttention(dims[i], num_heads[i], group_sizes[i], interval, grouping, **dd)
                cools = cooling and j % 3 == 2 and j < depths[i] - 1
                blocks.append(CrossFormerBlock(dims[i], attention, mlp_ratio, rate, cools, **dd))
            stages.append(Stage(blocks, _merging(dims[i - 1], **dd) if i else None))
        super().__init__(
            stem=_embedding(in_chans, dim, **dd),
            stages=stages,
            dims=dims,
            norm=LayerNorm2d(dims[-1], **dd),
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )


def _embedding(in_chans: int, dim: int, **dd) -> nn.Module:
    """Image to the first stage's input; each kernel has half the channels of the one before, the last what is left."""
    dims = [dim // 2, dim // 4, dim // 8]
    dims.append(dim - sum(dims))
    embed = CrossScaleConv(in_chans, dims, PATCH_KERNELS, stride=4, **dd)
    return nn.Sequential(OrderedDict(embed=embed, norm=LayerNorm2d(dim, **dd)))


def _merging(dim: int, **dd) -> nn.Module:
    embed = CrossScaleConv(dim, (dim, dim), MERGE_KERNELS, stride=2, **dd)
    return nn.Sequential(OrderedDict(norm=LayerNorm2d(dim, **dd), embed=embed))
