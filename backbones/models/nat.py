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

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead, calculate_drop_path_rates, register_notrace_module
from torch import nn

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.attention.neighborhood import NeighborhoodAttention2d
from backbones.layers.block import MixerBlock
from backbones.layers.norm import LayerNorm2d
from backbones.layers.pointwise import Linear
from backbones.models._registry import Family, Variant, Weights, register_family
from backbones.models._skeleton import Backbone, Stage

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


@register_notrace_module
class PatchEmbed(nn.Module):
    """Zero-pad right and bottom to a multiple of the patch, embed every patch, LayerNorm."""

    def __init__(self, in_chans: int, dim: int, patch_size: int, device=None, dtype=None) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.conv1 = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size, device=device, dtype=dtype)
        self.norm = LayerNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pad_h, pad_w = -x.shape[2] % self.patch_size, -x.shape[3] % self.patch_size
        # A symbolic padding is always applied, so that an exported program holds for every size.
        if isinstance(pad_h, torch.SymInt) or isinstance(pad_w, torch.SymInt) or pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))
        return self.norm(self.conv1(x))


@register_notrace_module
class PatchMerging(nn.Module):
    """Concatenate each 2x2 cell column by column, LayerNorm, linear to the next width; odd sides are zero-padded."""

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_dim, device=device, dtype=dtype)
        self.reduction = Linear(4 * in_dim, dim, bias=False, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pad_h, pad_w = x.shape[2] % 2, x.shape[3] % 2
        # A symbolic padding is always applied, so that an exported program holds for every size.
        if isinstance(pad_h, torch.SymInt) or isinstance(pad_w, torch.SymInt) or pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))
        x = x.permute(0, 2, 3, 1)
        x = torch.cat([x[:, row::2, col::2] for col in (0, 1) for row in (0, 1)], dim=-1)
        return self.reduction(self.norm(x)).permute(0, 3, 1, 2)


class NAT(Backbone):
    """Neighborhood attention transformer in its four published layouts.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        dims: Channels of the four stages; multiples of 32, the width of a head.
        depths: Blocks of the four stages.
        layout: "conv" (NAT, DiNAT), "patch" (DiNAT_s) or "isotropic" (one map at stride 16, `dims` all equal).
        kernel_size: Window side, odd; None for global attention with the bias table of a 14 x 14 map.
        dilations: Dilation of every block, stage by stage, or the name of a published setting in `DILATIONS`.
        mlp_ratio: Hidden width of the MLPs over the channels.
        layer_scale: Initial value of the layer scale, None for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.

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
            stem, downsample = PatchEmbed(in_chans, dims[0], 4, **dd), PatchMerging
        elif layout == "isotropic":
            stem, downsample = PatchEmbed(in_chans, dims[0], 16, **dd), None
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


# ------------------------------------------------------------------------------------------------ checkpoints, variants

_NAT_URL = "https://shi-labs.com/projects/nat/checkpoints/CLS"
_DINAT_URL = "https://shi-labs.com/projects/dinat/checkpoints"
_22K_FIRST = "pre-trained on ImageNet-22K"
_UNSTATED = "the class count is not stated: the model takes that of the file"

_COMMON = {
    "model": NAT,
    "origin_url": "https://github.com/SHI-Labs/Neighborhood-Attention-Transformer",
    "license": "mit",
    "dense_norm": r"^norm(\d)\.",
}
_DINAT_PAPER = {"paper_name": "Dilated Neighborhood Attention Transformer", "paper_ids": "arXiv:2209.15001"}


def _next_stage(match: re.Match) -> str:
    """The authors count a downsampler to the stage it ends, we to the stage it begins."""
    return f"stages.{int(match[1]) + 1}.downsample"


_KEYS = (
    (r"^patch_embed\.proj\.0\.", "stem.conv1."),
    (r"^patch_embed\.proj\.1\.", "stem.conv2."),
    (r"^patch_embed\.proj\.", "stem.conv1."),
    (r"^patch_embed\.norm\.", "stem.norm."),
    (r"^(?:levels|layers)\.(\d+)\.downsample", _next_stage),
    (r"^(?:levels|layers)\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"\.gamma([12])$", r".ls\1.gamma"),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def _pyramid(dim: int) -> tuple[int, ...]:
    return (dim, 2 * dim, 4 * dim, 8 * dim)


def _file(path: str, top1: float | None = None, **kwargs) -> Weights:
    return Weights(f"{_DINAT_URL}/{path}.pth", top1=top1, **kwargs)


def _nat(name: str, dim: int, depth: int, mlp_ratio: float, layer_scale: float | None, top1: float) -> Variant:
    args = {"dims": _pyramid(dim), "depths": (3, 4, depth, 5), "mlp_ratio": mlp_ratio, "layer_scale": layer_scale}
    return Variant(args, {"in1k": Weights(f"{_NAT_URL}/nat_{name}.pth", top1=top1)})


def _dinat(dim: int, depth: int, mlp_ratio: float, weights: dict[str, Weights], **args) -> Variant:
    layout = {"dims": _pyramid(dim), "depths": (3, 4, depth, 5), "mlp_ratio": mlp_ratio, "dilations": "224"}
    return Variant({**layout, **args}, weights)


def _dinat_s(dim: int, depth: int, weights: dict[str, Weights]) -> Variant:
    layout = {"dims": _pyramid(dim), "depths": (2, 2, depth, 2), "mlp_ratio": 4.0, "dilations": "224"}
    return Variant({**layout, "layout": "patch"}, weights)


def _isotropic(name: str, dim: int, top1: float, **args) -> Variant:
    layout = {"dims": (dim,) * 4, "depths": (3,) * 4, "mlp_ratio": 4.0, "layout": "isotropic"}
    return Variant({**layout, **args}, {"in1k": _file(f"isotropic/{name}_in1k_224", top1)})


def _block_of_layer(match: re.Match) -> str:
    """The isotropic models' 12 layers are our four stages of three."""
    layer = int(match[1])
    return f"stages.{layer // 3}.blocks.{layer % 3}."


def _convert_isotropic(state_dict: dict[str, torch.Tensor], model: NAT) -> dict[str, torch.Tensor]:
    """Global attention keeps its table in a module of its own."""
    table = "attn.rel_pos.relative_position_bias_table"
    if f"stages.0.blocks.0.{table}" not in model.state_dict():
        return state_dict
    return {re.sub(r"attn\.rpb$", table, key): value for key, value in state_dict.items()}


_ODD_LAYERS_2 = ((1, 2, 1), (2, 1, 2), (1, 2, 1), (2, 1, 2))
_TINY = {"dims": (32, 32, 64, 64), "depths": (1, 1, 2, 1), "kernel_size": 3, "dilations": ((1,), (2,), (1, 2), (1,))}

register_family(
    Family(
        **_COMMON,
        paper_name="Neighborhood Attention Transformer",
        paper_ids="arXiv:2204.07143",
        key_map=_KEYS,
        tiny={**_TINY, "dilations": "none"},
        variants={
            "nat_m": _nat("mini", 64, 6, 3.0, None, 81.8),
            "nat_t": _nat("tiny", 64, 18, 3.0, None, 83.2),
            "nat_s": _nat("small", 96, 18, 2.0, 1e-5, 83.7),
            "nat_b": _nat("base", 128, 18, 2.0, 1e-5, 84.3),
        },
    )
)

register_family(
    Family(
        **_COMMON,
        **_DINAT_PAPER,
        key_map=_KEYS,
        tiny=_TINY,
        variants={
            "dinat_m": _dinat(64, 6, 3.0, {"in1k": _file("imagenet1k/dinat_mini_in1k_224", 81.8)}),
            "dinat_t": _dinat(64, 18, 3.0, {"in1k": _file("imagenet1k/dinat_tiny_in1k_224", 82.7)}),
            "dinat_s": _dinat(96, 18, 2.0, {"in1k": _file("imagenet1k/dinat_small_in1k_224", 83.8)}),
            "dinat_b": _dinat(128, 18, 2.0, {"in1k": _file("imagenet1k/dinat_base_in1k_224", 84.4)}, layer_scale=1e-5),
            "dinat_l": _dinat(
                192,
                18,
                2.0,
                {
                    "in22k_ft_in1k": _file("imagenet1k/dinat_large_in22k_in1k_224", 86.6, notes=(_22K_FIRST,)),
                    "in22k_ft_in1k_384": _file(
                        "imagenet1k/dinat_large_in22k_in1k_384",
                        87.4,
                        input_size=384,
                        crop_pct=1.0,
                        args={"dilations": "384"},
                        notes=(_22K_FIRST,),
                    ),
                    "in22k": _file("imagenet22k/dinat_large_in22k_224", num_classes=None, notes=(_UNSTATED,)),
                },
            ),
            "dinat_l_11x11": _dinat(
                192,
                18,
                2.0,
                {
                    "in22k_ft_in1k_384": _file(
                        "imagenet1k/dinat_large_in22k_in1k_384_11x11",
                        87.5,
                        input_size=384,
                        crop_pct=1.0,
                        notes=(_22K_FIRST,),
                    ),
                    "in22k": _file(
                        "imagenet22k/dinat_large_in22k_224_11x11interp",
                        num_classes=None,
                        notes=("the 7x7 weights with bias tables resized to 21 x 21", _UNSTATED),
                    ),
                },
                kernel_size=11,
            ),
        },
    )
)

register_family(
    Family(
        **_COMMON,
        **_DINAT_PAPER,
        key_map=_KEYS,
        tiny=_TINY,
        variants={
            "dinat_s_t": _dinat_s(96, 6, {"in1k": _file("imagenet1k/dinat_s_tiny_in1k_224", 81.8)}),
            "dinat_s_s": _dinat_s(96, 18, {"in1k": _file("imagenet1k/dinat_s_small_in1k_224", 83.5)}),
            "dinat_s_b": _dinat_s(128, 18, {"in1k": _file("imagenet1k/dinat_s_base_in1k_224", 83.8)}),
            "dinat_s_l": _dinat_s(
                192,
                18,
                {
                    "in22k_ft_in1k": _file("imagenet1k/dinat_s_large_in1k_224", 86.5, notes=(_22K_FIRST,)),
                    "in22k_ft_in1k_384": _file(
                        "imagenet1k/dinat_s_large_in1k_384",
                        87.4,
                        input_size=384,
                        crop_pct=1.0,
                        args={"dilations": "384"},
                        notes=(_22K_FIRST,),
                    ),
                    "in22k": _file("imagenet22k/dinat_s_large_in22k_224", num_classes=None, notes=(_UNSTATED,)),
                },
            ),
        },
    )
)

register_family(
    Family(
        **_COMMON,
        **_DINAT_PAPER,
        key_map=(*_KEYS, (r"^layers\.(\d+)\.", _block_of_layer)),
        convert=_convert_isotropic,
        drop_keys=r"\.relative_position_index$",
        reduction=16,
        tiny={"dims": (32,) * 4, "depths": (1,) * 4, "dilations": "none"},
        variants={
            "nat_isotropic_s": _isotropic("nat_isotropic_small", 384, 80.0),
            "nat_isotropic_b": _isotropic("nat_isotropic_base", 768, 81.6),
            "dinat_isotropic_s": _isotropic("dinat_isotropic_small", 384, 80.8, dilations=_ODD_LAYERS_2),
            "dinat_isotropic_b": _isotropic("dinat_isotropic_base", 768, 82.1, dilations=_ODD_LAYERS_2),
            "vitrpb_s": _isotropic("vitrpb_small", 384, 81.2, kernel_size=None),
            "vitrpb_b": _isotropic("vitrpb_base", 768, 82.5, kernel_size=None),
        },
    )
)
