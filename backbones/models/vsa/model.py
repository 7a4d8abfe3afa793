"""VSA: varied-size window attention (Zhang et al., ECCV 2022, arXiv 2204.08446), in ViTAEv2 and in Swin.

- Windows choose where they read their keys and values, and how large that rectangle is, for each head.
- A depthwise convolution gives positions; windows are not shifted.
- ViTAEv2 (arXiv 2202.10108) has convolutions beside every attention, and downsamples by cells of dilated convolutions.

Differences from the papers: rates of stochastic depth in ViTAEv2 restart between stages (see `ViTAEv2VSA`); detectors
pad their maps otherwise than classifiers, and exchange the units of distance in x and y. The form of Swin is that of
the authors' later code (QFormer), as the first was not published.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates
from torch import nn

from backbones.layers.attention.varied_window import VariedSizeWindowAttention
from backbones.models.skeleton import HierarchicalModel, Stage
from backbones.models.swin import SwinTransformer
from backbones.models.vsa.blocks import NormalCell, ReductionCell, SwinVSABlock

KERNELS = (7, 3, 3, 3)
DILATIONS = ((1, 2, 3, 4), (1, 2, 3), (1, 2), (1, 2))
STRIDES = (4, 2, 2, 2)


class ViTAEv2VSA(HierarchicalModel):
    """ViTAEv2 with varied-size window attention in all cells.

    Takes images of any size: maps that a stride or the window does not divide are zero-padded; what padding gives as
    keys and values is zero. On maps that are smaller than the window, distances are in units of the map.

    Args:
        dims: Channels of the four stages.
        embed_dims: Channels of each dilated convolution in the cell before each stage.
        depths: Normal cells of the four stages.
        num_heads: Heads of the normal cells, stage by stage.
        reduction_heads: Heads of the reduction cells.
        groups: Groups of the convolutions in the normal cells.
        reduction_groups: Groups of the convolutions in the reduction cells.
        wide_pcm: Twice a stage's channels in the convolutions of its reduction cell, instead of `embed_dims`.
        window_size: Side of the windows.
        detector: The form of the authors' detectors: maps are padded on all sides, and distances in units of the other
            axis; reduction cells have windows of 7, and positions are given by kernels as large as the window.
        mlp_ratio: Hidden width of the normal cells' MLPs over the channels.
        drop_path_rate: Stochastic depth. Rates rise linearly from 0 over all normal cells, but stage i takes them from
            number `depths[i - 1]` on, as the authors' code does, so that the last ones may not occur.
        in_chans, num_classes, global_pool, drop_rate, device, dtype: See `HierarchicalModel`.

    Raises:
        ValueError: Heads or groups that do not divide the channels.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 256, 512),
        embed_dims: Sequence[int] = (64, 64, 128, 256),
        depths: Sequence[int] = (2, 2, 8, 2),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        reduction_heads: Sequence[int] = (2, 2, 4, 8),
        groups: Sequence[int] = (1, 32, 64, 128),
        reduction_groups: Sequence[int] = (1, 16, 32, 64),
        wide_pcm: bool = False,
        window_size: int = 7,
        detector: bool = False,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        convention = "detector" if detector else "classifier"
        rates = calculate_drop_path_rates(drop_path_rate, sum(depths))
        cells, stages = [], []
        for i, dim in enumerate(dims):
            width = embed_dims[i] * len(DILATIONS[i])
            window = 7 if detector else window_size
            attention = VariedSizeWindowAttention(dim, reduction_heads[i], window, width, convention, **dd)
            cells.append(
                ReductionCell(
                    dims[i - 1] if i else in_chans,
                    dim,
                    attention,
                    embed_dims[i],
                    KERNELS[i],
                    DILATIONS[i],
                    STRIDES[i],
                    reduction_groups[i],
                    2 * dim if wide_pcm else embed_dims[i],
                    **dd,
                )
            )
            blocks = []
            first = depths[i - 1] if i else 0
            for rate in rates[first : first + depths[i]]:
                attention = VariedSizeWindowAttention(dim, num_heads[i], window_size, convention=convention, **dd)
                kernel = 2 * (window_size // 2) + 1 if detector else 7
                blocks.append(NormalCell(dim, attention, groups[i], kernel, mlp_ratio, rate, **dd))
            stages.append(Stage(blocks, cells[i] if i else None))
        super().__init__(
            stem=cells[0],
            stages=stages,
            dims=dims,
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )

    def _init_weights(self, module: nn.Module, name: str) -> None:
        # The attention's linears are 1x1 convolutions in the authors' code, which start as torch's do.
        if ".attn." not in name:
            super()._init_weights(module, name)


class SwinVSA(SwinTransformer):
    """Swin with varied-size windows in the place of shifted ones, and depthwise convolutions in front of them.

    Takes images of any size: maps that the window does not divide are zero-padded below and right; what padding gives
    as keys and values is zero.

    Args:
        dim: Channels of the first stage; each later stage has twice those before it.
        depths: Blocks of the four stages.
        num_heads: Heads of the four stages.
        window_size: Side of the windows.
        mlp_ratio: Hidden width of the MLPs over the channels.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.

    Raises:
        ValueError: Heads that do not divide the channels.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dim: int = 96,
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

        def block(i: int, j: int, drop_path: float) -> nn.Module:
            width = dim * 2**i
            attention = VariedSizeWindowAttention(width, num_heads[i], window_size, convention="swin", **dd)
            return SwinVSABlock(width, attention, mlp_ratio, drop_path, **dd)

        super().__init__(
            block,
            in_chans,
            num_classes,
            global_pool,
            dim,
            depths,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            **dd,
        )

    def _init_weights(self, module: nn.Module, name: str) -> None:
        """Linears with truncated normal 0.02; windows start where they are, and as large."""
        super()._init_weights(module, name)
        if name.endswith(".attn.place"):
            nn.init.zeros_(module.weight)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The bias tables, as in Swin."""
        return {name for name, _ in self.named_parameters() if name.endswith(".relative_position_bias_table")}
