"""Published weights of SOFT and SOFT++: addresses, key map, variants."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from backbones.layers.tokens import PositionEmbedding
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family
from backbones.models.soft.model import SOFT


def _stage(pattern: str, name: str) -> tuple[str, Any]:
    """The pair for what the authors number from 1, and we from 0."""
    return pattern, lambda m: f"stages.{int(m[1]) - 1}.{name}"


_KEYS = (
    (r"^patch_embed1\.proj\.([036])\.", lambda m: f"stem.conv{int(m[1]) // 3 + 1}."),
    (r"^patch_embed1\.proj\.([147])\.", lambda m: f"stem.norm{int(m[1]) // 3 + 1}."),
    _stage(r"^patch_embed([234])\.proj\.0\.", "downsample.conv1."),
    _stage(r"^patch_embed([234])\.proj\.1\.", "downsample.norm1."),
    (r"^pos_embed1$", "stem.pos_embed.table"),
    _stage(r"^pos_embed([23])$", "downsample.pos_embed.table"),
    _stage(r"^pos_embed(4)$", "pos_embed.table"),
    (r"^cls_token$", "stages.3.cls_token.token"),
    _stage(r"^block(\d)\.", "blocks."),
    (r"\.att\.mha\.attn\.Qlandmark_op\.", ".attn.reduce."),
    (r"\.att\.mha\.attn\.Qnorm_act\.0\.", ".attn.norm."),
    (r"\.att\.mha\.attn\.conv\.", ".attn.local_conv."),
    (r"\.att\.mha\.ff\.", ".attn.proj."),
    (r"\.att\.mha\.W_([qv])\.", r".attn.\1."),
    (r"\.att\.ff([12])\.", r".mlp.fc\1."),
    (r"\.att\.norm([12])\.", r".norm\1."),
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Projections of one input are one layer here; position tables of square images are brought to the model's size."""
    out = dict(state_dict)
    for first, second in (("q", "v"), ("q", "kv")):
        for key in state_dict:
            prefix, _, kind = key.rpartition(f".attn.{second}.")
            if prefix and f"{prefix}.attn.{first}.{kind}" in out:
                parts = (out.pop(f"{prefix}.attn.{name}.{kind}") for name in (first, second))
                out[f"{prefix}.attn.{first}{second}.{kind}"] = torch.cat(tuple(parts))
    for name, module in model.named_modules():
        table = out.get(f"{name}.table") if isinstance(module, PositionEmbedding) else None
        if table is not None and table.shape != module.table.shape:
            side = math.isqrt(table.shape[1] - module.num_prefix_tokens)
            out[f"{name}.table"] = module.resized(table, (side, side), module.grid_size)
    return out


def _drive(file: str) -> str:
    return f"https://drive.google.com/file/d/{file}/view?usp=sharing"


_OLD = (
    "trained in 2021, when the authors' inverse was the one that the argument inverse='plain' gives; results differ "
    "by less than a hundredth of their deviation"
)


def _weights(top1: float, file: str | None, *notes: str) -> Weights:
    if file is None:
        return Weights(crop_pct=0.9, top1=top1, notes=("the authors publish no file of this size",))
    return Weights(
        page=f"https://drive.google.com/file/d/{file}/view?usp=sharing", crop_pct=0.9, top1=top1, notes=notes
    )


_SIZES = {
    "t": {"depths": (1, 2, 3, 2)},
    "s": {"depths": (1, 3, 20, 4)},
    "m": {"dims": (64, 128, 288, 512), "num_heads": (2, 4, 9, 16), "depths": (1, 3, 29, 5)},
    "l": {"depths": (1, 3, 40, 5)},
    "h": {"dims": (64, 128, 352, 512), "num_heads": (2, 4, 11, 16), "depths": (1, 5, 49, 5)},
}
_SOFT = {
    "t": _weights(79.3, "1S04DCotIOkP0DaBb8WStQ513z82qT9de", _OLD),
    "s": _weights(82.2, None),
    "m": _weights(82.9, None),
    "l": _weights(83.1, None),
    "h": _weights(83.3, None),
}
_SOFT_NORM = {
    "t": _weights(79.4, "1Isy5b9v_4pyIXDqhKPNRq3WKH0etDlfl"),
    "s": _weights(82.4, "1OBjn7FzVdNP1Urqxq7X0yDykyPhxAAW1"),
    "m": _weights(83.1, "1K2C6daaJn3jwurWh38uvV7rexirWjuzh"),
    "l": _weights(83.3, "1aRYuF_gbBGyiXUDKEcpHJmM04SdvTUdP"),
    "h": _weights(83.4, None),
}
_CUDA = _weights(79.3, "1inDKh3Wz_2KQgGH_2ywU5H_gLKZpIz_u", "trained with the authors' CUDA operators", _OLD)
_COMMON = {
    "model": SOFT,
    "origin_url": "https://github.com/fudan-zvg/SOFT",
    "license": "mit",
    "key_map": _KEYS,
    "averaged": True,
    "dense": DenseForm(norm=None),
    "convert": _convert,
    "tiny": {
        "dims": (16, 32, 32, 64),
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 2, 4),
        "mlp_ratio": 2.0,
        "img_size": 64,
    },
}

register_family(
    Family(
        paper_name="SOFT: Softmax-free Transformer with Linear Complexity",
        paper_ids="arXiv:2110.11945",
        variants={
            f"soft_{size}": Variant(_SIZES[size], {"in1k": weights, **({"in1k_cuda": _CUDA} if size == "t" else {})})
            for size, weights in _SOFT.items()
        },
        **_COMMON,
    )
)
register_family(
    Family(
        paper_name="Softmax-free Linear Transformers",
        paper_ids="arXiv:2207.03341",
        variants={
            f"soft_norm_{size}": Variant({**_SIZES[size], "inverse": "normalized"}, {"in1k": weights})
            for size, weights in _SOFT_NORM.items()
        },
        **_COMMON,
    )
)
