"""Pyramid vision transformer (Wang et al., ICCV 2021, arXiv 2102.12122), a host of any token mixer.

- A vision transformer in four stages: each embeds the patches of the map before it, and adds positions.
- Keys and values are made of a map that a strided convolution reduces, so that attention fits large maps.

Differences from the paper: no class token in the last stage and no final norm, as in the models that Agent (arXiv
2312.08874) and InLine attention (arXiv 2412.06590) are published in; the authors' own files do not load.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates, register_notrace_module, to_2tuple
from torch import nn

from backbones._compat import update_model_input_size
from backbones.layers.block import MixerBlock
from backbones.layers.mixers import Entry, model_mixers, set_map_size
from backbones.layers.patch import PatchEmbed
from backbones.layers.tokens import PositionEmbedding
from backbones.models.skeleton import HierarchicalModel, Stage

PATCH_SIZES = (4, 2, 2, 2)


@register_notrace_module
class PatchPositionEmbed(PatchEmbed):
    """Patch embedding with LayerNorm, then positions (section 3.2).

    Rows and columns that the patch leaves over are cut off. The position embedding is resized, bilinear, to any map.

    Args:
        in_chans: Channels of the image or map.
        dim: Channels C.
        patch_size: Side of a patch.
        map_size: `(H, W)` of the maps that the position embedding is stored for.

    Maps `(B, in_chans, H, W)` to `(B, C, floor(H / patch_size), floor(W / patch_size))`.
    """

    def __init__(
        self, in_chans: int, dim: int, patch_size: int, map_size: tuple[int, int], device=None, dtype=None
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(in_chans, dim, patch_size, norm_eps=1e-5, **dd)
        self.pos_embed = PositionEmbedding(dim, map_size, interpolation="bilinear", decayed=True, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv1(x))
        grid = (x.shape[2], x.shape[3])
        x = self.pos_embed(x.permute(0, 2, 3, 1).flatten(1, 2), grid)
        return x.unflatten(1, grid).permute(0, 3, 1, 2)


class PyramidVisionTransformer(HierarchicalModel):
    """Pyramid vision transformer around any token mixer.

    Takes images of any size: rows and columns that are no whole patch are cut off, and the position embeddings resized.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        img_size: Side of the images, or `(height, width)`, that position embeddings and mixers are made for.
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        num_heads: Heads of the four stages.
        reductions: Stride of the convolutions that keys and values are made from, stage by stage; 1 for none.
        mixer: Token mixers in the place of this attention, see `backbones.layers.mixers.model_mixers`.
        mlp_ratios: Hidden width of the MLPs over the channels, stage by stage.
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
        dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        mixer: Entry | Sequence[Entry | Sequence[Entry]] | None = None,
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        sizes = map_sizes(img_size)
        if mixer is None:
            mixer = [{"name": "spatial_reduction", "reduction": reduction} for reduction in reductions]
        embeds = [
            PatchPositionEmbed(width, dim, patch, size, **dd)
            for width, dim, patch, size in zip((in_chans, *dims), dims, PATCH_SIZES, sizes)
        ]
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, mixers in enumerate(model_mixers(mixer, depths)):
            blocks = []
            for j, (make, rate) in enumerate(zip(mixers, rates[i])):
                attention = make(dims[i], num_heads[i], map_size=sizes[i], block=j, **dd)
                blocks.append(MixerBlock(dims[i], attention, mlp_ratios[i], norm_eps=1e-6, drop_path=rate, **dd))
            stages.append(Stage(blocks, embeds[i] if i else None))
        super().__init__(
            stem=embeds[0],
            stages=stages,
            dims=dims,
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )
        self._traits = {"fixed_input_size": False}  # for timm: built for an image size, run at any

    @property
    def embeds(self) -> list[nn.Module]:
        """The patch embeddings of the stages."""
        return [self.stem, *(stage.downsample for stage in self.stages[1:])]

    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Resize the stored position embeddings, and fit the mixers, to images of another size.

        Args:
            img_size: Side of the images, or `(height, width)`.

        Raises:
            ValueError: An image smaller than 32 pixels.
        """
        if img_size is None:
            return
        for embed, stage, size in zip(self.embeds, self.stages, map_sizes(img_size)):
            embed.pos_embed.set_grid_size(size)
            set_map_size(stage.blocks, size)
        update_model_input_size(self, img_size)  # for timm's saved configuration


def map_sizes(img_size: int | tuple[int, int]) -> list[tuple[int, int]]:
    """`(rows, columns)` of the stages' maps.

    Args:
        img_size: Side of the images, or `(height, width)`, pixels.

    Raises:
        ValueError: An image smaller than 32 pixels.
    """
    height, width = to_2tuple(img_size)
    if min(height, width) < 32:
        raise ValueError(f"img_size {img_size} must be 32 or more")
    sizes = []
    for patch in PATCH_SIZES:
        height, width = height // patch, width // patch
        sizes.append((height, width))
    return sizes


# Of `Family.key_map`: the authors' names of the parts, which are also those of Agent-PVT and InLine-PVT, and ours.
PVT_KEYS = (
    (r"^patch_embed1\.proj\.", "stem.conv1."),
    (r"^patch_embed1\.norm\.", "stem.norm."),
    (r"^pos_embed1$", "stem.pos_embed.table"),
    (r"^patch_embed(\d)\.proj\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.conv1."),
    (r"^patch_embed(\d)\.norm\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.norm."),
    (r"^pos_embed(\d)$", lambda m: f"stages.{int(m[1]) - 1}.downsample.pos_embed.table"),
    (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
)


def resize_position_embeddings(
    state_dict: dict[str, torch.Tensor], model: PyramidVisionTransformer
) -> dict[str, torch.Tensor]:
    """For `Family.convert`: the position embeddings of square images of another size, resized to the model's maps."""
    names = ["stem.pos_embed", *(f"stages.{i}.downsample.pos_embed" for i in range(1, len(model.stages)))]
    for name, embed in zip(names, model.embeds):
        table = state_dict.get(f"{name}.table")
        if table is not None and table.shape != embed.pos_embed.table.shape:
            side = round(table.shape[1] ** 0.5)
            state_dict[f"{name}.table"] = embed.pos_embed.resized(table, (side, side), embed.pos_embed.grid_size)
    return state_dict


def join_queries(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """For `Family.convert`: queries that have a layer of their own, joined to keys and values."""
    out = {}
    for key, value in state_dict.items():
        if ".attn.q." in key:
            out[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([value, state_dict[key.replace(".q.", ".kv.")]])
        elif ".attn.kv." not in key:
            out[key] = value
    return out
