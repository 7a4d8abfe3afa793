"""Published weights of GC ViT: addresses, key map, variants."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from backbones.models.gcvit.model import GCViT
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames
from backbones.models.swin import convert_bias_tables

_KEYS = (
    (r"^patch_embed\.proj\.", "stem.conv."),
    (r"^patch_embed\.conv_down\.", "stem.down."),
    *renames(r"\.conv\.", {"0": "dwconv", "2.fc.0": "se.fc1", "2.fc.2": "se.fc2", "3": "pwconv"}),
    (r"^levels\.(\d)\.q_global_gen\.to_q_global\.(\d)\.conv\.", r"stages.\1.query.convs.\2."),
    (r"^levels\.(\d)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
    (r"^levels\.", "stages."),
    (r"\.gamma([12])$", r".ls\1.gamma"),
    (r"\.attn\.relative_position_bias_table$", ".attn.rel_pos.relative_position_bias_table"),
    # timm's names
    (r"^stem\.conv1\.", "stem.conv."),
    (r"^stages\.(\d)\.global_block\.blocks\.conv(\d)\.", lambda m: f"stages.{m[1]}.query.convs.{int(m[2]) - 1}."),
    *renames(r"\.", {"conv_block": "conv", "conv_dw": "dwconv", "conv_pw": "pwconv"}),
    (r"^stages\.3\.norm\.", "norm."),
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Linears of squeeze-excite are 1x1 convolutions here; bias tables are of any window."""
    for key, value in state_dict.items():
        if ".se.fc" in key and value.ndim == 2:
            state_dict[key] = value[:, :, None, None]
    return convert_bias_tables(state_dict, model)


_HUB = "https://huggingface.co/nvidia/GCViT/resolve/main"
_FIRST = "pre-trained on ImageNet-21K (22K in the paper's words)"


def _gcvit(
    name: str, dim: int, depths: tuple[int, ...], mlp_ratio: float, top1: float, crop_pct: float = 0.875, **more: Any
) -> Variant:
    weights = {"in1k": Weights(f"{_HUB}/gcvit_1k_{name}.pth.tar", top1=top1, crop_pct=crop_pct), **more}
    args = {"dims": (dim, 2 * dim, 4 * dim, 8 * dim), "depths": depths, "mlp_ratio": mlp_ratio}
    return Variant({**args, "layer_scale": 1e-5 if dim > 64 else None}, weights)


def _large(side: int, top1: float) -> Weights:
    return Weights(
        f"{_HUB}/gcvit_21k_large_{side}.pth.tar",
        input_size=side,
        crop_pct=1.0,
        crop_mode="squash",
        top1=top1,
        args={"img_size": side},
        notes=(_FIRST,),
    )


_LARGE = {
    "in21k_ft_in1k": Weights(
        page="https://drive.google.com/uc?export=download&id=1maGDr6mJkLyRTUkspMzCgSlhDzNRFGEf",
        crop_pct=1.0,
        top1=86.6,
        notes=(_FIRST,),
    ),
    "in21k_ft_in1k_384": _large(384, 87.4),
    "in21k_ft_in1k_512": _large(512, 87.6),
}

register_family(
    Family(
        model=GCViT,
        paper_name="Global Context Vision Transformers",
        paper_ids="arXiv:2206.09959",
        origin_url="https://github.com/NVlabs/GCVit",
        license="cc-by-nc-sa-4.0",
        key_map=_KEYS,
        drop_keys=r"\.relative_position_index$",
        convert=_convert,
        dense=DenseForm(keys=r"^norm(\d)\.", args={"window_size": 24, "query_pools": (3, 2, 1, 0)}),
        first_conv="stem.conv",
        sized=True,
        tiny={"dims": (32, 32, 64, 64), "depths": (2, 2, 2, 2), "window_size": (2, 2, 4, 2)},
        variants={
            "gcvit_xxt": _gcvit("xxtiny", 64, (2, 2, 6, 2), 3.0, 79.9, 1.0),
            "gcvit_xt": _gcvit("xtiny", 64, (3, 4, 6, 5), 3.0, 82.0),
            "gcvit_t": _gcvit("tiny", 64, (3, 4, 19, 5), 3.0, 83.5, 1.0),
            "gcvit_t2": _gcvit("tiny2", 64, (3, 4, 29, 5), 3.0, 83.7),
            "gcvit_s": _gcvit("small", 96, (3, 4, 19, 5), 2.0, 84.3),
            "gcvit_s2": _gcvit("small2", 96, (3, 4, 23, 5), 3.0, 84.8),
            "gcvit_b": _gcvit("base", 128, (3, 4, 19, 5), 2.0, 85.0, 1.0),
            "gcvit_l": _gcvit("large", 192, (3, 4, 19, 5), 2.0, 85.7, 1.0, **_LARGE),
        },
    )
)
