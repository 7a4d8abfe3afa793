"""Variants of DHVT and the key map of the authors' training files; no weights are published."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from backbones.models.dhvt.model import DHVT
from backbones.models.isotropic import TOKEN_KEYS
from backbones.models.registry import Family, Variant, Weights, register_family

_KEYS = (
    (r"^patch_embed\.proj\.(\d+)\.0\.", lambda m: f"stem.convs.{int(m[1]) // 2}.conv."),
    (r"^patch_embed\.proj\.(\d+)\.1\.", lambda m: f"stem.convs.{int(m[1]) // 2}.norm."),
    (r"^patch_embed\.(pre|post)_affine\.", r"stem.\1_affine."),
    *TOKEN_KEYS,
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """For images of other channels than the file's, take the mean of its affine map of channels."""
    affine = model.stem.pre_affine
    for key in ("alpha", "beta"):
        name = f"stem.pre_affine.{key}"
        if name in state_dict and state_dict[name].shape != getattr(affine, key).shape:
            state_dict[name] = state_dict[name].mean(1, keepdim=True).expand_as(getattr(affine, key)).clone()
    return state_dict


_UNPUBLISHED = "the authors publish no file: their repository says that it will be released"


def _weights(top1: float | None = None, **kwargs: Any) -> Weights:
    return Weights(top1=top1, notes=(_UNPUBLISHED,), **kwargs)


def _small_images(dim: int, heads: int, patch_size: int) -> Variant:
    weights = _weights(input_size=32, reduction=patch_size, num_classes=100, crop_pct=1.0)
    return Variant({"dim": dim, "num_heads": heads, "patch_size": patch_size}, {"cifar100": weights})


register_family(
    Family(
        model=DHVT,
        paper_name="DHVT: Bridging the Gap Between Vision Transformers and Convolutional Neural Networks on "
        "Small Datasets",
        paper_ids="arXiv:2210.05958",
        origin_url="https://github.com/ArieSeirack/DHVT",
        license="apache-2.0",
        key_map=_KEYS,
        convert=_convert,
        first_conv="stem.convs.0.conv",
        reduction=16,
        tiny={"dim": 32, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0, "patch_size": 16},
        variants={
            "dhvt_t": Variant(
                {"dim": 192, "num_heads": 3},
                {"in1k": _weights(77.6), "domainnet": _weights(num_classes=345, args={"num_heads": 4})},
            ),
            "dhvt_s": Variant(
                {"dim": 384, "num_heads": 6}, {"in1k": _weights(82.3), "domainnet": _weights(num_classes=345)}
            ),
            "dhvt_t_patch4": _small_images(192, 4, 4),
            "dhvt_s_patch4": _small_images(384, 8, 4),
            "dhvt_t_patch2": _small_images(192, 4, 2),
            "dhvt_s_patch2": _small_images(384, 8, 2),
        },
    )
)
