"""CSWin Transformer (Dong et al., CVPR 2022, arXiv 2107.00652), a host of any token mixer.

- Half of the heads attend within vertical stripes, half within horizontal ones, which widen from stage to stage.
- A depthwise convolution of the values gives positions (LePE).

Differences from the paper: padding is masked where the stripes do not divide the map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates, to_2tuple
from torch import nn

from backbones._compat import update_model_input_size
from backbones.layers.block import MixerBlock
from backbones.layers.mixers import Entry, model_mixers, set_map_size
from backbones.layers.norm import LayerNorm2d
from backbones.models.skeleton import HierarchicalModel, Stage


class CSwinTransformer(HierarchicalModel):
    """CSWin Transformer around any token mixer.

    Takes images of any size: the convolutions round up, and where stripes do not divide a map, padding is masked.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        img_size: Side of the images, or `(height, width)`, that mixers are made for; stripes do not depend on it.
        dim: Channels of the first stage; each later stage has twice those before it.
        depths: Blocks of the four stages.
        num_heads: Heads of the four stages.
        stripe_widths: Rows or columns of a stripe, stage by stage; 0 for attention to the whole map.
        mixer: Token mixers in the place of these, see `backbones.layers.mixers.model_mixers`.
        mlp_ratio: Hidden width of the MLPs over the channels.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.

    Raises:
        ValueError: An image smaller than 32 pixels, heads that do not divide the channels, or an unknown mixer.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] = 224,
        dim: int = 64,
        depths: Sequence[int] = (1, 2, 21, 1),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        stripe_widths: Sequence[int] = (1, 2, 7, 0),
        mixer: Entry | Sequence[Entry | Sequence[Entry]] | None = None,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        dims = [dim * 2**i for i in range(len(depths))]
        sizes = map_sizes(img_size, len(depths))
        if mixer is None:
            mixer = [{"name": "cross_shaped", "stripe_width": width} for width in stripe_widths]
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, mixers in enumerate(model_mixers(mixer, depths)):
            blocks = []
            for j, (make, rate) in enumerate(zip(mixers, rates[i])):
                attention = make(dims[i], num_heads[i], map_size=sizes[i], block=j, **dd)
                blocks.append(MixerBlock(dims[i], attention, mlp_ratio, drop_path=rate, **dd))
            stages.append(Stage(blocks, _conv_norm(dims[i - 1], dims[i], 3, 2, **dd) if i else None))
        super().__init__(
            stem=_conv_norm(in_chans, dim, 7, 4, **dd),
            stages=stages,
            dims=dims,
            norm=LayerNorm2d(dims[-1], **dd),
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )
        self._traits = {"fixed_input_size": False}  # for timm: built for an image size, run at any

    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Fit the mixers to images of another size.

        Args:
            img_size: Side of the images, or `(height, width)`.

        Raises:
            ValueError: An image smaller than 32 pixels.
        """
        if img_size is None:
            return
        for stage, size in zip(self.stages, map_sizes(img_size, len(self.stages))):
            set_map_size(stage.blocks, size)
        update_model_input_size(self, img_size)  # for timm's saved configuration


def _conv_norm(in_dim: int, dim: int, kernel_size: int, stride: int, **dd) -> nn.Module:
    """Overlapping patches: a strided convolution, LayerNorm."""
    padding = (kernel_size - stride + 1) // 2
    conv = nn.Conv2d(in_dim, dim, kernel_size, stride, padding, **dd)
    return nn.Sequential(OrderedDict(conv1=conv, norm=LayerNorm2d(dim, **dd)))


def map_sizes(img_size: int | tuple[int, int], stages: int = 4) -> list[tuple[int, int]]:
    """`(rows, columns)` of the stages' maps.

    Args:
        img_size: Side of the images, or `(height, width)`, pixels.
        stages: Number of stages.

    Raises:
        ValueError: An image smaller than 32 pixels.
    """
    height, width = to_2tuple(img_size)
    if min(height, width) < 32:
        raise ValueError(f"img_size {img_size} must be 32 or more")
    sizes = [((height + 1) // 4, (width + 1) // 4)]
    for _ in range(stages - 1):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return sizes


# Of `Family.key_map`: the authors' names of the parts, which are also those of Agent-CSWin and InLine-CSWin, and ours.
CSWIN_KEYS = (
    (r"^stage1_conv_embed\.0\.", "stem.conv1."),
    (r"^stage1_conv_embed\.2\.", "stem.norm."),
    (r"^merge(\d)\.conv\.", r"stages.\1.downsample.conv1."),
    (r"^merge(\d)\.norm\.", r"stages.\1.downsample.norm."),
    (r"^stage(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}."),
    (r"^(stages\.\d+\.blocks\.\d+)\.(qkv|proj)\.", r"\1.attn.\2."),
    (r"\.attns\.(\d)\.get_v\.", r".attn.lepe.\1."),
)


def convert_branches(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """For `Family.convert`: attention to the whole map has one position encoding, stripes have two."""
    out = {}
    for key, value in state_dict.items():
        if ".lepe.0." in key and key.replace(".lepe.0.", ".lepe.1.") not in state_dict:
            key = key.replace(".lepe.0.", ".lepe.")
        out[key] = value
    return out
