"""Published weights of EMOv2 and EMO: addresses, key map, variants."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn

from backbones.models.emov2.model import EMOv2
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames

_KEYS = (
    *renames("^", {"stage0.0.conv": "stem.conv1", "stage0.0.norm": "stem.norm1"}),
    *renames("^", {"stage0.1.conv": "stem.dwconv", "stage0.1.norm": "stem.norm2", "stage0.2.conv": "stem.conv2"}),
    (r"^stage([1-4])\.(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{match[2]}."),
    (r"^(stages\..*)\.norm\.norm\.", r"\1.norm."),
    (r"^norm\.norm\.", "norm."),
    (r"\.eops\.0\.net\.conv\.", ".expand.conv."),
    (r"\.eops\.0\.(qk|v)\.conv\.", r".expand.\1."),
    (r"\.conv_local\.", ".dwconv."),
    (r"\.proj\.conv\.", ".proj."),
)
_FLAT = re.compile(r"\.expand\.(qk|v)\.weight$|\.ls\.gamma$")


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The 1x1 convolutions of the attention are linears here, the layer scales vectors."""
    out = {}
    for key, value in state_dict.items():
        if value.ndim == 4 and _FLAT.search(key):
            value = value.flatten() if key.endswith("gamma") else value.flatten(1)
        out[key] = value
    return out


_DATA = "https://github.com/zhangzjn/data"
_UNPUBLISHED = {"in1k": Weights(notes=("the authors publish neither a file nor an accuracy",))}
_DISTILLED = "distilled from TResNet-L v2"
_STRONGER = "trained with a stronger recipe that is not published"


def _size(dims: Sequence[int], depths: Sequence[int], exp_ratios: Sequence[float], head_dims: Sequence[int]) -> dict:
    return {"dims": dims, "depths": depths, "exp_ratios": exp_ratios, "head_dims": head_dims}


_SIZES = {
    "1m": _size((32, 48, 80, 180), (2, 2, 8, 3), (2.0, 2.5, 3.0, 3.5), (16, 16, 20, 20)),
    "2m": _size((32, 48, 120, 200), (3, 3, 9, 3), (2.0, 2.5, 3.0, 3.5), (16, 16, 20, 20)),
    "5m": _size((48, 72, 160, 288), (3, 3, 9, 3), (2.0, 3.0, 4.0, 4.0), (16, 24, 32, 32)),
    "20m": _size((64, 128, 320, 448), (3, 3, 13, 3), (2.0, 3.0, 4.0, 4.0), (16, 32, 32, 32)),
    "50m": _size((64, 128, 384, 512), (5, 8, 20, 7), (2.0, 3.0, 4.0, 4.0), (16, 32, 32, 32)),
}


def _file(name: str, top1: float, **kwargs) -> Weights:
    path = f"main/emov2_pretrained_weights/{name}.pth"
    return Weights(f"{_DATA}/raw/{path}", page=f"{_DATA}/blob/{path}", top1=top1, **kwargs)


def _pair(size: str, top1: float, distilled: float) -> dict[str, Weights]:
    return {
        "in1k": _file(f"EMOv2_{size}_224", top1),
        "dist_in1k": _file(f"EMOv2_{size}_224_KD", distilled, notes=(_DISTILLED,)),
    }


_WEIGHTS = {
    "1m": _pair("1M", 72.3, 73.5),
    "2m": _pair("2M", 75.8, 76.7),
    "5m": {
        **_pair("5M", 79.4, 80.9),
        "in1k_512": _file("EMOv2_5M_512", 82.9, input_size=512, args={"window_size": 8}, notes=(_DISTILLED, _STRONGER)),
    },
}

_COMMON = {
    "model": EMOv2,
    "origin_url": "https://github.com/zhangzjn/EMOv2",
    "license": "unknown",
    "key_map": _KEYS,
    "convert": _convert,
    "dense": DenseForm(norm=None, args={"window_size": 10}),
    # A layer scale of 1e-6 leaves nothing of a feature map that half precision or a few steps could show.
    "tiny": {"dims": (16, 24, 32, 48), "depths": (1, 2, 2, 2), "head_dims": (8, 8, 16, 16), "layer_scale": 0.1},
}

register_family(
    Family(
        **_COMMON,
        paper_name="EMOv2: Pushing 5M Vision Model Frontier",
        paper_ids="arXiv:2412.06674",
        variants={f"emov2_{size}": Variant(args, _WEIGHTS.get(size, _UNPUBLISHED)) for size, args in _SIZES.items()},
    )
)

register_family(
    Family(
        **_COMMON,
        paper_name="Rethinking Mobile Block for Efficient Attention-based Models",
        paper_ids="arXiv:2301.01146",
        variants={
            f"emov1_{size}": Variant({**args, "kernel_sizes": (3, 3, 5, 5), "close": False}, _UNPUBLISHED)
            for size, args in _SIZES.items()
            if size != "50m"
        },
    )
)
