"""InLine attention in DeiT, PVT, Swin and CSWin (Han et al., NeurIPS 2024, arXiv 2412.06590): weights and variants.

Linear attention that is normalised by a subtraction, with a local term (`layers.attention.inline`), in all blocks of
DeiT and PVT, and in the first blocks of Swin and CSWin, the rest of which keep softmax in windows or stripes.

Differences from the paper: queries and keys go through no function; the sizes of DeiT, and the heads of PVT, are the
authors' own. Their README's parameter counts of CSWin (25, 43, 96 million) and of PVT-L (50.2) are not those of their
code, which are followed here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from backbones.models.cswin import CSWIN_KEYS, CSwinTransformer, convert_branches
from backbones.models.deit import DeiT
from backbones.models.isotropic import TOKEN_KEYS, resize_position_embedding
from backbones.models.pvt import PVT_KEYS, PyramidVisionTransformer, join_queries, resize_position_embeddings
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames
from backbones.models.swin import SWIN_BUFFERS, SWIN_KEYS, Swin, convert_swin

_URL = "https://cloud.tsinghua.edu.cn/f/{}/?dl=1"
_KEYS = renames(r"\.", {"residual.0": "local.fc1", "residual.2": "local.fc2"})
_CONFIG_ONLY = "the authors publish a configuration of this size, and no file"
_SQUASHED = {"crop_mode": "squash"}  # the whole image resized to a square of 256 / 224 of the side, then cropped

_COMMON = {
    "paper_name": "Bridging the Divide: Reconsidering Softmax and Linear Attention",
    "paper_ids": "arXiv:2412.06590",
    "origin_url": "https://github.com/LeapLabTHU/InLine",
    "license": "unknown",
    "sized": True,
}


def _weights(file: str, top1: float, side: int = 224) -> dict[str, Weights]:
    return {"in1k": Weights(_URL.format(file), top1=top1, input_size=side, **_SQUASHED)}


def _at_384(crop_pct: float, **args: Any) -> dict[str, Weights]:
    note = Weights(
        input_size=384, crop_pct=crop_pct, args={"img_size": 384, **args}, notes=(_CONFIG_ONLY,), **_SQUASHED
    )
    return {"in1k_384": note}


def _deit(dim: int, heads: int, side: int, file: str, top1: float) -> Variant:
    return Variant({"dim": dim, "num_heads": heads, "img_size": side, "mixer": "inline"}, _weights(file, top1, side))


register_family(
    Family(
        **_COMMON,
        model=DeiT,
        key_map=(*TOKEN_KEYS, *_KEYS),
        convert=resize_position_embedding,
        reduction=16,
        tiny={"dim": 32, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0, "img_size": 64},
        variants={
            "inline_deit_t": _deit(192, 6, 224, "1d6b8191ad6d4114b291", 74.5),
            "inline_deit_s": _deit(320, 10, 288, "2f3898b07e9247f3beb3", 80.2),
            "inline_deit_b": _deit(384, 12, 448, "10bdd726d4b0435eb34e", 82.3),
        },
    )
)


def _convert_pvt(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    return resize_position_embeddings(join_queries(state_dict), model)


def _pvt(depths: tuple[int, ...], file: str, top1: float) -> Variant:
    return Variant({"depths": depths, "num_heads": (2, 4, 10, 16), "mixer": "inline"}, _weights(file, top1))


register_family(
    Family(
        **_COMMON,
        model=PyramidVisionTransformer,
        key_map=(*PVT_KEYS, *_KEYS),
        convert=_convert_pvt,
        dense=DenseForm(norm=None),
        tiny={
            "dims": (16, 16, 32, 32),
            "depths": (1, 1, 1, 1),
            "num_heads": (2, 2, 2, 4),
            "mlp_ratios": (2, 2, 2, 2),
            "img_size": 64,
        },
        variants={
            "inline_pvt_t": _pvt((2, 2, 2, 2), "90ac52b1555b401eb5e6", 78.2),
            "inline_pvt_s": _pvt((3, 4, 6, 3), "1ab953b2479d433080a3", 82.0),
            "inline_pvt_m": _pvt((3, 4, 18, 3), "a72aec31e6084bc0a280", 83.2),
            "inline_pvt_l": _pvt((3, 8, 27, 3), "efd91318ba964f01b288", 83.6),
        },
    )
)


def _swin_args(dim: int, depths: tuple[int, ...], mixer: tuple, **args: Any) -> dict[str, Any]:
    return {
        "dim": dim,
        "depths": depths,
        "num_heads": tuple(dim // 32 * 2**i for i in range(4)),
        "mixer": mixer,
        **args,
    }


def _mixed(window: int) -> tuple:
    """IIMS2: two blocks of the third stage with InLine attention, the others with windows; so, all of the fourth."""
    windows = {"name": "shifted_window", "window_size": window}
    return "inline", "inline", ("inline", "inline", windows), windows


_DEEP = (2, 2, 18, 2)
_WINDOWS = "shifted_window"

register_family(
    Family(
        **_COMMON,
        model=Swin,
        key_map=(*SWIN_KEYS, *_KEYS),
        drop_keys=SWIN_BUFFERS,
        convert=convert_swin,
        tiny={
            "dim": 16,
            "depths": (1, 1, 2, 1),
            "num_heads": (2, 2, 2, 4),
            "mixer": ("inline", "inline", ("inline", _WINDOWS), _WINDOWS),
            "mlp_ratio": 2.0,
            "img_size": 64,
        },
        variants={
            "inline_swin_t": Variant(
                _swin_args(96, (2, 2, 6, 2), ("inline", "inline", "inline", _WINDOWS)),
                _weights("32810869fcc34410966b", 82.4),
            ),
            "inline_swin_s": Variant(
                _swin_args(96, _DEEP, ("inline", "inline", _WINDOWS, _WINDOWS)),
                _weights("e9657fd247c04c7cb1a1", 83.6),
            ),
            "inline_swin_b": Variant(
                _swin_args(128, _DEEP, _mixed(7)),
                {**_weights("bf23564bb64c420aafe1", 84.1), **_at_384(1.0, mixer=_mixed(12))},
            ),
        },
    )
)


def _cswin_mixer(stripe_width: int) -> tuple:
    inline = {"name": "inline", "lepe": True, "kernels_from": "shortcut"}
    stripes = ({"name": "cross_shaped", "stripe_width": width} for width in (stripe_width, 0))
    return inline, inline, *stripes


def _cswin(dim: int, depths: tuple[int, ...], weights: dict[str, Weights]) -> Variant:
    heads = tuple((4 if dim == 96 else 2) * 2**i for i in range(4))
    return Variant({"dim": dim, "depths": depths, "num_heads": heads, "mixer": _cswin_mixer(7)}, weights)


register_family(
    Family(
        **_COMMON,
        model=CSwinTransformer,
        key_map=(*CSWIN_KEYS, (r"\.attns\.0\.", ".attn."), *_KEYS),
        convert=convert_branches,
        averaged=True,
        tiny={"dim": 16, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 2, 4), "mlp_ratio": 2.0, "img_size": 64},
        variants={
            "inline_cswin_t": _cswin(64, (2, 4, 18, 1), _weights("49fa2ecc543647c4b970", 83.2)),
            "inline_cswin_s": _cswin(64, (3, 6, 29, 2), _weights("59f4e65f776f4052b93c", 83.8)),
            "inline_cswin_b": _cswin(
                96,
                (3, 6, 29, 2),
                {**_weights("91e17121df284ae38521", 84.5), **_at_384(0.875, mixer=_cswin_mixer(12))},
            ),
        },
    )
)
