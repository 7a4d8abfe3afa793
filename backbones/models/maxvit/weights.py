"""Published weights of MaxViT: addresses, variants.

The weights are the authors' as timm publishes them (`maxvit_*_tf_*`), whose key names are ours. The "224" ImageNet-1K
files take ImageNet's mean and std, all others 0.5; the 384 and 512 files hold bias tables of windows 12 and 16; a table
of another window is resized as the authors resize it. Evaluation crops size / (size + 32) of the resized image, as the
authors do, whose accuracies are for that: with timm's crops (0.95 at 224, the whole image squashed at 384 and 512) they
are up to 0.2 points lower. Weights from ImageNet-21K have timm's, as their accuracies are timm's measurements.
"""

from __future__ import annotations

import torch
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from torch import nn

from backbones.layers.attention.relpos import resize_bias_table
from backbones.models.maxvit.model import MaxViT
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family


def _resize_tables(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Resize bias tables of another window than the model's, as the authors do at fine-tuning."""
    tables = {name: p for name, p in model.named_parameters() if name.endswith("relative_position_bias_table")}
    for name in tables.keys() & state_dict.keys():
        rows, columns = tables[name].shape[1:]
        state_dict[name] = resize_bias_table(state_dict[name], ((rows + 1) // 2, (columns + 1) // 2))
    return state_dict


_HALF = {"mean": IMAGENET_INCEPTION_MEAN, "std": IMAGENET_INCEPTION_STD}
_BY_TIMM = "this accuracy is timm's measurement, of squashed images: the authors give none for these weights"
_BY_AUTHORS = "this accuracy is that of the authors' centre crop, size / (size + 32) of the shorter side"
_CROPS = {224: 0.875, 384: 0.923, 512: 0.941}  # size / (size + 32)


def _in1k(name: str, *top1: float) -> dict[str, Weights]:
    """Trained on ImageNet-1K at 224, and from there at 384 and 512."""
    notes = (_BY_AUTHORS,)
    repo = f"timm/maxvit_{name}_tf_224.in1k"
    weights = {"in1k": Weights(hf_hub_id=repo, crop_pct=_CROPS[224], top1=top1[0], notes=notes)}
    for side, value in zip((384, 512), top1[1:]):
        repo = f"maxvit_{name}_tf_{side}.in1k"
        weights[f"in1k_{side}"] = _large(repo, side, value, crop_pct=_CROPS[side], notes=notes)
    return weights


def _in21k(name: str, *top1: float) -> dict[str, Weights]:
    """Trained on ImageNet-21K at 224, and from there on ImageNet-1K at 384 and 512."""
    crop = {"crop_pct": 1.0, "crop_mode": "squash"}
    weights = {
        f"in21k_ft_in1k_{side}": _large(
            f"maxvit_{name}_tf_{side}.in21k_ft_in1k", side, value, notes=(_BY_TIMM,), **crop
        )
        for side, value in zip((384, 512), top1)
    }
    repo = f"timm/maxvit_{name}_tf_224.in21k"
    return {**weights, "in21k": Weights(hf_hub_id=repo, crop_pct=_CROPS[224], num_classes=21843, **_HALF)}


def _large(repo: str, side: int, top1: float, **kwargs) -> Weights:
    return Weights(
        hf_hub_id=f"timm/{repo}",
        input_size=side,
        top1=top1,
        args={"img_size": side},
        **_HALF,
        **kwargs,
    )


def _maxvit(stem_width: int, dim: int, depths: tuple[int, ...], weights: dict[str, Weights]) -> Variant:
    return Variant({"stem_width": stem_width, "dims": (dim, 2 * dim, 4 * dim, 8 * dim), "depths": depths}, weights)


_SHALLOW, _DEEP = (2, 2, 5, 2), (2, 6, 14, 2)

register_family(
    Family(
        model=MaxViT,
        paper_name="MaxViT: Multi-Axis Vision Transformer",
        paper_ids="arXiv:2204.01697",
        origin_url="https://github.com/google-research/maxvit",
        license="apache-2.0",
        dense=DenseForm(norm=None),
        sized=True,
        convert=_resize_tables,
        tiny={"stem_width": 16, "dims": (32, 32, 64, 64), "depths": (1, 1, 2, 1), "window_size": 4},
        variants={
            "maxvit_t": _maxvit(64, 64, _SHALLOW, _in1k("tiny", 83.62, 85.24, 85.72)),
            "maxvit_s": _maxvit(64, 96, _SHALLOW, _in1k("small", 84.45, 85.74, 86.19)),
            "maxvit_b": _maxvit(
                64, 96, _DEEP, {**_in1k("base", 84.95, 86.34, 86.66), **_in21k("base", 87.930, 88.214)}
            ),
            "maxvit_l": _maxvit(
                128, 128, _DEEP, {**_in1k("large", 85.17, 86.40, 86.70), **_in21k("large", 87.994, 88.236)}
            ),
            "maxvit_xl": _maxvit(192, 192, _DEEP, _in21k("xlarge", 88.302, 88.540)),
        },
    )
)
