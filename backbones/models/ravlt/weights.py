"""Published weights of RAVLT and MAViT: addresses, key map, variants."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from backbones.models.ravlt.model import RAVLT, MAViT
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames

_KEYS = (
    *((rf"^patch_embed\.proj\.{3 * i}\.", f"stem.conv{i + 1}.") for i in range(4)),
    *((rf"^patch_embed\.proj\.{3 * i + 1}\.", f"stem.norm{i + 1}.") for i in range(4)),
    (r"^layers\.(\d)\.downsample\.reduction\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.conv."),
    (r"^layers\.(\d)\.downsample\.norm\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.norm."),
    (r"^layers\.(\d)\.", r"stages.\1."),
    *renames(r"\.blocks\.\d+\.", {"pos": "pos_embed", "ffn": "mlp", "norm1.norm": "norm1", "norm2.norm": "norm2"}),
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    *renames("^", {"proj": "head.conv", "norm": "head.norm"}),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)
_TINY = {
    "dims": (16, 32, 32, 64),
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 2, 4),
    "mlp_ratio": 2.0,
    "layer_scales": (1.0, 1.0, 1.0, 1.0),
    "head_size": 48,
}


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The 1x1 convolutions of attention and classifier are linears here."""
    matrices = (".attn.qkvo.weight", ".attn.proj.weight", "head.fc.weight")
    return {key: value.flatten(1) if key.endswith(matrices) else value for key, value in state_dict.items()}


_LATE, _ALL = (1.0, 1.0, 1e-6, 1e-6), (1e-6, 1e-6, 1e-6, 1e-6)
_SIZES = {
    "t": {"dims": (64, 128, 256, 512), "depths": (2, 2, 6, 2), "num_heads": (1, 2, 4, 8)},
    "s": {"dims": (64, 128, 320, 512), "depths": (3, 5, 9, 3), "num_heads": (1, 2, 5, 8)},
    "b": {"dims": (96, 192, 384, 512), "depths": (4, 6, 12, 6), "num_heads": (1, 2, 6, 8), "layer_scales": _LATE},
    "l": {"dims": (96, 192, 448, 640), "depths": (4, 7, 19, 8), "num_heads": (1, 2, 7, 10), "layer_scales": _ALL},
}
_TOP1 = {"t": (82.8, 82.9), "s": (84.4, 84.7), "b": (85.5, 85.7), "l": (85.8, 86.0)}  # of RAVLT and of MAViT
_RAVLT_FILES = "https://huggingface.co/aldjalkdf/RAVLT/resolve/main"
_MAVIT_FOLDER = "https://huggingface.co/aldjalkdf/MAViT/tree/main"


def _ravlt(size: str) -> Variant:
    weights = Weights(f"{_RAVLT_FILES}/RAVLT_{size.upper()}.pth", top1=_TOP1[size][0])
    return Variant(_SIZES[size], {"in1k": weights})


def _mavit(size: str) -> Variant:
    args = {**_SIZES[size], "head_size": 2560 if size == "l" else 2048}
    return Variant(args, {"in1k": Weights(page=_MAVIT_FOLDER, top1=_TOP1[size][1])})


_FAMILY = Family(
    model=RAVLT,
    paper_name="Breaking the Low-Rank Dilemma of Linear Attention",
    paper_ids="arXiv:2411.07635",
    origin_url="https://github.com/qhfan/RALA",
    license="mit",
    key_map=_KEYS,
    drop_keys=r"\.RoPE\.angle$",
    dense=DenseForm(keys=r"^extra_norms\.(\d)\.norm\.", eps=1e-6),
    convert=_convert,
    tiny=_TINY,
    variants={f"ravlt_{size}": _ravlt(size) for size in _SIZES},
)
register_family(_FAMILY)
register_family(
    replace(
        _FAMILY,
        model=MAViT,
        paper_name="Rectifying Magnitude Neglect in Linear Attention",
        paper_ids="arXiv:2507.00698",
        origin_url="https://github.com/qhfan/MALA",
        license="unknown",
        variants={f"mavit_{size}": _mavit(size) for size in _SIZES},
    )
)
