"""GC ViT: global context vision transformer (Hatamizadeh et al., ICML 2023, arXiv 2206.09959).

- Window attention without shifts: every second block of a stage attends with global queries, one window of them, made
  of the stage's whole input once and shared by all windows and blocks.
- Windows are 1/32 of the image, in the third stage 1/16, which at the size of the training is its whole map.
- Fused MBConv with squeeze-excite in stem, downsampling and query generators gives locality.

Differences from the paper: global queries are not projected; downsampling adds the convolution to the normed map. The
authors' classifiers take images of the size of their windows alone; timm's, whose weights load here, have the same
limit. Written from the paper and published facts; the weights are for non-commercial use (CC BY-NC-SA 4.0).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates, to_2tuple
from torch import nn

from backbones._compat import update_model_input_size
from backbones.layers.attention.window import WindowAttention
from backbones.layers.norm import LayerNorm2d
from backbones.models.gcvit.blocks import (
    Downsample,
    GCViTStage,
    GlobalBlock,
    GlobalQueryAttention,
    LocalBlock,
    QueryGenerator,
)
from backbones.models.skeleton import HierarchicalModel

HEAD_DIM = 32
WINDOW_STRIDES = (32, 32, 16, 32)  # pixels of the image for one position of the published windows, stage by stage


class Stem(nn.Module):
    """3x3 stride-2 convolution, then `Downsample`; `(B, C, H, W)` to `(B, D, ceil(H / 4), ceil(W / 4))`."""

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(in_chans, dim, 3, stride=2, padding=1, **dd)
        self.down = Downsample(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.conv(x))


class GCViT(HierarchicalModel):
    """Global context vision transformer.

    Takes images of any size. Where windows do not divide a map, they are zero-padded, and the padding is attended to;
    global queries are resized to the window (bicubic), both as in the authors' detectors.

    Args:
        dims: Channels of the four stages; multiples of 32, the width of a head.
        depths: Blocks of the four stages.
        window_size: Side of the windows, or `(rows, columns)`, of all stages or of each; by default (7, 7, 14, 7), or
            what `img_size` asks for.
        img_size: Side of the images, or `(height, width)`, to derive windows from: img_size // (32, 32, 16, 32).
        query_pools: Poolings of the four stages' query generators.
        mlp_ratio: Hidden width of the MLPs over the channels.
        layer_scale: Initial value of the layer scale, None for none.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.

    Raises:
        ValueError: Widths that are no multiples of 32, or an image smaller than 32 pixels.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 6, 2),
        window_size: int | Sequence[int | tuple[int, int]] | None = None,
        img_size: int | tuple[int, int] | None = None,
        query_pools: Sequence[int] = (3, 2, 0, 0),
        mlp_ratio: float = 3.0,
        layer_scale: float | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        if any(dim % HEAD_DIM for dim in dims):
            raise ValueError(f"dims {tuple(dims)} must be multiples of {HEAD_DIM}, the width of an attention head")
        dd = {"device": device, "dtype": dtype}
        windows = _windows(window_size, img_size)

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, window, heads = dims[stage], windows[stage], dims[stage] // HEAD_DIM
            options = {"mlp_ratio": mlp_ratio, "layer_scale": layer_scale, "drop_path": drop_path, **dd}
            if index % 2:
                return GlobalBlock(dim, GlobalQueryAttention(dim, heads, window, **dd), **options)
            mixer = WindowAttention(dim, heads, window, mask_padding=False, resize_mode="bicubic", **dd)
            return LocalBlock(dim, mixer, **options)

        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            blocks = [block(i, j, rate) for j, rate in enumerate(rates)]
            query = QueryGenerator(dims[i], windows[i], query_pools[i], **dd)
            stages.append(GCViTStage(blocks, query, Downsample(dims[i - 1], dims[i], **dd) if i else None))
        super().__init__(
            stem=Stem(in_chans, dims[0], **dd),
            stages=stages,
            dims=dims,
            norm=LayerNorm2d(dims[-1], **dd),
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )
        self.window_size = windows
        self._traits = {"fixed_input_size": False}  # for timm: built for an image size, run at any

    def _init_weights(self, module: nn.Module, name: str) -> None:
        if name.endswith((".se.fc1", ".se.fc2")):  # linears in the authors' code
            nn.init.trunc_normal_(module.weight, std=0.02)
        else:
            super()._init_weights(module, name)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """None: the authors decay the bias tables too, as no parameter has the name that they exclude."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """As of every model; a stage's query generator is with its first block."""
        groups = super().group_matcher(coarse)
        if not coarse:
            groups["blocks"].insert(0, (r"^stages\.(\d+)\.query", (0,)))
        return groups

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        window_size: int | Sequence[int | tuple[int, int]] | None = None,
    ) -> None:
        """Change the windows, and resize all bias tables to them (bicubic).

        Args:
            img_size: Side of the images, or `(height, width)`, to derive windows from.
            window_size: Windows to use instead.
        """
        if window_size is None and img_size is None:
            return
        self.window_size = _windows(window_size, img_size)
        for stage, window in zip(self.stages, self.window_size):
            for module in stage.modules():
                if isinstance(module, WindowAttention):
                    module.set_window_size(window)
                elif isinstance(module, QueryGenerator):
                    module.window_size = window
        update_model_input_size(self, img_size, window_size=self.window_size)  # for timm's saved configuration


def _windows(
    window_size: int | Sequence[int | tuple[int, int]] | None, img_size: int | tuple[int, int] | None
) -> tuple[tuple[int, int], ...]:
    """`(rows, columns)` of the windows of every stage."""
    if window_size is None:
        height, width = to_2tuple(224 if img_size is None else img_size)
        window_size = [(height // stride, width // stride) for stride in WINDOW_STRIDES]
    elif isinstance(window_size, int):
        window_size = [window_size] * len(WINDOW_STRIDES)
    windows = tuple(to_2tuple(window) for window in window_size)
    if min(map(min, windows)) < 1:
        raise ValueError(f"img_size {img_size} and window_size {window_size} give windows of {windows}; use 32 or more")
    return windows
