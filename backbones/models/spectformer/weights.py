"""Variants of SpectFormer and the key maps of the authors' training files; no weights are published.

The paper calls the hierarchical models SpectFormer-H.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from backbones.layers.spectral import SpectralGating, resized_filter
from backbones.models.isotropic import TOKEN_KEYS, resize_position_embedding
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family
from backbones.models.spectformer.hierarchical import NORM_EPS, SpectFormer
from backbones.models.spectformer.vanilla import VanillaSpectFormer

_KEYS = (
    (r"^patch_embed1\.conv\.([036])\.", lambda m: f"stem.conv{int(m[1]) // 3 + 1}.conv."),
    (r"^patch_embed1\.conv\.([147])\.", lambda m: f"stem.conv{int(m[1]) // 3 + 1}.norm."),
    (r"^patch_embed1\.", "stem."),
    (r"^patch_embed(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.downsample."),
    (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
    (r"^norm([1-3])\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
    (r"^norm4\.", "head.norm."),
    (r"^post_network\.0\.(?:attn\.)?", "head.block."),
    (r"^aux_head\.", "head.aux.fc."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),
)


def _resize_filters(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Filters for images of another size are resized to the model's."""
    for name, module in model.named_modules():
        key = f"{name}.complex_weight"
        if isinstance(module, SpectralGating) and key in state_dict:
            state_dict[key] = resized_filter(state_dict[key], *module.map_size)
    return state_dict


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Queries, keys and values of attention are one layer here; the auxiliary head is fitted to the model's."""
    out, aux = {}, model.head.aux
    for key, value in state_dict.items():
        if key.startswith("head.aux.") and (aux is None or len(value) != aux.fc.out_features):
            continue
        if match := re.fullmatch(r"(stages\..+\.attn)\.(q|kv)\.(weight|bias)", key):
            prefix, layer, kind = match.groups()
            if layer == "q":
                out[f"{prefix}.qkv.{kind}"] = torch.cat([value, state_dict[f"{prefix}.kv.{kind}"]])
        else:
            out[key] = value
    return _resize_filters(out, model)


def _convert_vanilla(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    return resize_position_embedding(_resize_filters(state_dict, model), model)


def _variant(top1: float, crop_pct: float = 0.875, **args: Any) -> Variant:
    notes = ("the authors publish no weights",)
    return Variant(args, {"in1k": Weights(top1=top1, crop_pct=crop_pct, notes=notes)})


_PAPER = {
    "paper_name": "SpectFormer: Frequency and Attention is what you need in a Vision Transformer",
    "paper_ids": "arXiv:2304.06446",
    "origin_url": "https://github.com/badripatro/SpectFormers",
    "license": "unknown",
    "sized": True,
}

register_family(
    Family(
        **_PAPER,
        model=SpectFormer,
        key_map=_KEYS,
        convert=_convert,
        dense=DenseForm(eps=NORM_EPS),
        first_conv="stem.conv1.conv",
        complete={"aux_head": True},
        tiny={
            "img_size": 64,
            "stem_dim": 8,
            "dims": (32, 32, 32, 64),
            "depths": (1, 1, 1, 1),
            "mlp_ratios": (2, 2, 2, 2),
        },
        variants={
            "spectformer_h_s": _variant(84.3, 0.96),
            "spectformer_h_b": _variant(85.0, 0.96, stem_dim=64, dims=(64, 128, 320, 512), depths=(3, 4, 12, 3)),
            "spectformer_h_l": _variant(85.7, 0.96, stem_dim=64, dims=(96, 192, 384, 512), depths=(3, 6, 18, 3)),
        },
    )
)

register_family(
    Family(
        **_PAPER,
        model=VanillaSpectFormer,
        key_map=(*TOKEN_KEYS, (r"\.filter\.", ".attn.")),
        convert=_convert_vanilla,
        reduction=16,
        tiny={"img_size": 64, "dim": 32, "depth": 4, "num_heads": 2, "spectral_depth": 2, "mlp_ratio": 2.0},
        variants={
            "spectformer_t": _variant(76.9, dim=256, num_heads=4),
            "spectformer_xs": _variant(80.2),
            "spectformer_s": _variant(81.7, depth=19),
            "spectformer_b": _variant(82.1, dim=512, depth=19, num_heads=8),
        },
    )
)
