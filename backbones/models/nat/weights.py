"""Published weights of NAT and DiNAT: addresses, key map, variants."""

from __future__ import annotations

import re

import torch

from backbones.models.nat.model import NAT
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family

_NAT_URL = "https://shi-labs.com/projects/nat/checkpoints/CLS"
_DINAT_URL = "https://shi-labs.com/projects/dinat/checkpoints"
_22K_FIRST = "pre-trained on ImageNet-22K"
_AT_384 = {"input_size": 384, "crop_pct": 1.0}
_UNSTATED = "the class count is not stated: the model takes that of the file"

_COMMON = {
    "model": NAT,
    "origin_url": "https://github.com/SHI-Labs/Neighborhood-Attention-Transformer",
    "license": "mit",
    "dense": DenseForm(keys=r"^norm(\d)\."),
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
)


def _pyramid(dim: int) -> tuple[int, ...]:
    return (dim, 2 * dim, 4 * dim, 8 * dim)


def _file(path: str, top1: float | None = None, **kwargs) -> Weights:
    return Weights(f"{_DINAT_URL}/{path}.pth", top1=top1, **kwargs)


def _nat(name: str, dim: int, depth: int, mlp_ratio: float, layer_scale: float | None, top1: float) -> Variant:
    args = {"dims": _pyramid(dim), "depths": (3, 4, depth, 5), "mlp_ratio": mlp_ratio, "layer_scale": layer_scale}
    return Variant(args, {"in1k": Weights(f"{_NAT_URL}/nat_{name}.pth", top1=top1)})


def _large(name: str, fine_tuned: str, *top1: float) -> dict[str, Weights]:
    """Pre-trained on ImageNet-22K, then fine-tuned at 224 and 384."""
    path, notes = f"imagenet1k/{fine_tuned}", (_22K_FIRST,)
    return {
        "in22k_ft_in1k": _file(f"{path}_224", top1[0], notes=notes),
        "in22k_ft_in1k_384": _file(f"{path}_384", top1[1], **_AT_384, args={"dilations": "384"}, notes=notes),
        "in22k": _file(f"imagenet22k/{name}_in22k_224", num_classes=None, notes=(_UNSTATED,)),
    }


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
            "dinat_l": _dinat(192, 18, 2.0, _large("dinat_large", "dinat_large_in22k_in1k", 86.6, 87.4)),
            "dinat_l_11x11": _dinat(
                192,
                18,
                2.0,
                {
                    "in22k_ft_in1k_384": _file(
                        "imagenet1k/dinat_large_in22k_in1k_384_11x11",
                        87.5,
                        **_AT_384,
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
            "dinat_s_l": _dinat_s(192, 18, _large("dinat_s_large", "dinat_s_large_in1k", 86.5, 87.4)),
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
