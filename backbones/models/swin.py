"""The pyramid of Swin transformers, whose blocks are the family's own (Liu et al., ICCV 2021, arXiv 2103.14030)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from timm.layers import ClassifierHead, calculate_drop_path_rates, to_2tuple
from torch import nn

from backbones.layers.norm import LayerNorm2d
from backbones.layers.patch import PatchEmbed, PatchMerging
from backbones.models.skeleton import HierarchicalModel, Stage


class SwinTransformer(HierarchicalModel):
    """Patch embedding, four stages with patch merging between them, LayerNorm, pooling, classifier.

    Args:
        block: Makes the block `j` of stage `i`, from `(i, j, stochastic depth rate)`; from and to `(B, dims[i], H, W)`.
            Swin's own is `MixerBlock` around `ShiftedWindowAttention`.
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        dim: Channels of the first stage; each later stage has twice those before it.
        depths: Blocks of the stages.
        norm_last: LayerNorm after the linear layer of patch merging (Swin V2) instead of before it.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.
    """

    def __init__(
        self,
        block: Callable[[int, int, float], nn.Module],
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        norm_last: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        dims = [dim * 2**i for i in range(len(depths))]
        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            downsample = PatchMerging(dims[i - 1], dims[i], norm_last, **dd) if i else None
            stages.append(Stage([block(i, j, rate) for j, rate in enumerate(rates)], downsample))
        super().__init__(
            stem=PatchEmbed(in_chans, dim, 4, norm_eps=1e-5, **dd),
            stages=stages,
            dims=dims,
            norm=LayerNorm2d(dims[-1], **dd),
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )


def windows_of(img_size: int | tuple[int, int], window_size: int, stages: int = 4) -> list[tuple[int, int]]:
    """Window and shift of each stage's shifted blocks, as Swin's authors derive them from the size of the images.

    Where the shorter side of a stage's map is not larger than the window, it becomes the window, and there is no shift.

    Args:
        img_size: Side of the images, or `(height, width)`, pixels.
        window_size: The window that is asked for, positions.
        stages: Number of stages, the first at stride 4.

    Raises:
        ValueError: An image smaller than 32 pixels, or no window.
    """
    if min(to_2tuple(img_size)) < 32 or window_size < 1:
        raise ValueError(f"img_size {img_size} must be 32 or more, and window_size {window_size} 1 or more")
    side = -(-min(to_2tuple(img_size)) // 4)
    found = []
    for _ in range(stages):
        found.append((side, 0) if side <= window_size else (window_size, window_size // 2))
        side = (side + 1) // 2
    return found
