"""The pyramid of Swin transformers, whose blocks are the family's own, and Swin around any token mixer.

Source: Liu et al., "Swin Transformer", ICCV 2021, arXiv 2103.14030. timm has Swin's own models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates, to_2tuple
from torch import nn

from backbones._compat import update_model_input_size
from backbones.layers.attention.relpos import resize_bias_table, table_of_swin
from backbones.layers.attention.window import fitted_window
from backbones.layers.block import MixerBlock
from backbones.layers.mixers import Entry, model_mixers, set_map_size
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


class Swin(SwinTransformer):
    """Swin Transformer, with any token mixer in the place of its shifted windows.

    Takes images of any size. What mixers derive from the size of the maps (windows, tables) is that of `img_size`;
    `set_input_size` derives it anew.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        img_size: Side of the images, or `(height, width)`, that mixers are made for.
        dim: Channels of the first stage; each later stage has twice those before it.
        depths: Blocks of the stages.
        num_heads: Heads of the stages.
        mixer: Token mixer of the blocks, or a sequence of one a stage, see `layers.mixers`.
        mlp_ratio: Hidden width of the MLPs over the channels.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.

    Raises:
        ValueError: Heads that do not divide the channels, or a mixer or an option that does not exist.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] = 224,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        mixer: Entry | Sequence[Entry | Sequence[Entry]] = "shifted_window",
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        mixers, sizes = model_mixers(mixer, depths), map_sizes(img_size, len(depths))

        def block(i: int, j: int, drop_path: float) -> nn.Module:
            width = dim * 2**i
            attention = mixers[i][j](width, num_heads[i], map_size=sizes[i], block=j, **dd)
            return MixerBlock(width, attention, mlp_ratio, drop_path=drop_path, **dd)

        super().__init__(block, in_chans, num_classes, global_pool, dim, depths, False, drop_rate, drop_path_rate, **dd)
        self._traits = {"fixed_input_size": False}  # for timm: built for an image size, run at any

    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Fit the mixers to images of another size.

        Args:
            img_size: Side of the images, or `(height, width)`.
        """
        if img_size is None:
            return
        for stage, size in zip(self.stages, map_sizes(img_size, len(self.stages))):
            set_map_size(stage.blocks, size)
        update_model_input_size(self, img_size)  # for timm's saved configuration


def map_sizes(img_size: int | tuple[int, int], stages: int = 4, stride: int = 4) -> list[tuple[int, int]]:
    """`(H, W)` of the stages' maps, each of half the sides of the one before, rounded up.

    Args:
        img_size: Side of the images, or `(height, width)`, pixels.
        stages: Number of stages.
        stride: Of the first stage's maps.
    """
    height, width = to_2tuple(img_size)
    return [(-(-height // (stride << i)), -(-width // (stride << i))) for i in range(stages)]


def windows_of(img_size: int | tuple[int, int], window_size: int, stages: int = 4) -> list[tuple[int, int]]:
    """Window and shift of each stage's shifted blocks, see `fitted_window`.

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
        found.append(fitted_window(side, window_size))
        side = (side + 1) // 2
    return found


# Of `Family.key_map`: the authors' names of the parts of a Swin transformer, and ours.
SWIN_KEYS = (
    (r"^patch_embed\.proj\.", "stem.conv1."),
    (r"^patch_embed\.norm\.", "stem.norm."),
    (r"^layers\.", "stages."),
    (r"\.attn\.relative_position_bias_table$", ".attn.rel_pos.relative_position_bias_table"),
)
SWIN_BUFFERS = r"relative_position_index$|attn_mask$"  # of `Family.drop_keys`


def move_merging(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """For `Family.convert`: the authors' stages end with their patch merging, ours begin with it."""
    if not any(key.startswith("stages.0.downsample.") for key in state_dict):
        return state_dict
    out = {}
    for key, value in state_dict.items():
        parts = key.split(".", 3)
        if parts[0] == "stages" and parts[2] == "downsample":
            key = f"stages.{int(parts[1]) + 1}.downsample.{parts[3]}"
        out[key] = value
    return out


def convert_bias_tables(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """For `Family.convert`: bias tables of any window, bicubic; those of the authors are flat, by query minus key."""
    tables = {name: p.shape[1:] for name, p in model.named_parameters() if name.endswith("_bias_table")}
    for key in tables.keys() & state_dict.keys():
        value, (rows, columns) = state_dict[key], tables[key]
        if value.ndim == 2:
            value = table_of_swin(value)
        state_dict[key] = resize_bias_table(value, ((rows + 1) // 2, (columns + 1) // 2), mode="bicubic")
    return state_dict


def convert_swin(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """For `Family.convert`: both."""
    return convert_bias_tables(move_merging(state_dict, model), model)
