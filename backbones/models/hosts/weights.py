"""Variants of PVT and CSWin with their own attention.

PVT is the host that Agent and InLine attention are published in, without class token and final norm: the files of PVT's
authors do not load. The names of CSWin's parts, which its key map reads, are those of that host too.
"""

from __future__ import annotations

from backbones.models.cswin import CSWIN_KEYS, CSwinTransformer, convert_branches
from backbones.models.pvt import PVT_KEYS, PyramidVisionTransformer, resize_position_embeddings
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family

_UNPUBLISHED = "nobody publishes a file of this form: the paper's models have a class token in their last stage"


def _pvt(depths: tuple[int, ...]) -> Variant:
    return Variant({"depths": depths}, {"in1k": Weights(notes=(_UNPUBLISHED,))})


register_family(
    Family(
        model=PyramidVisionTransformer,
        paper_name="Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
        paper_ids="arXiv:2102.12122",
        origin_url="https://github.com/whai362/PVT",
        license="apache-2.0",
        key_map=PVT_KEYS,
        convert=resize_position_embeddings,
        dense=DenseForm(norm=None),
        sized=True,
        tiny={
            "dims": (16, 16, 32, 32),
            "depths": (1, 1, 1, 1),
            "num_heads": (2, 2, 2, 4),
            "mlp_ratios": (2, 2, 2, 2),
            "img_size": 64,
        },
        variants={
            "pvt_t": _pvt((2, 2, 2, 2)),
            "pvt_s": _pvt((3, 4, 6, 3)),
            "pvt_m": _pvt((3, 4, 18, 3)),
            "pvt_l": _pvt((3, 8, 27, 3)),
        },
    )
)


_UNVERIFIED = "the authors publish a file of this size, at an address that is not verified here"


def _cswin(top1: float, side: int = 224, **args) -> Weights:
    return Weights(top1=top1, input_size=side, args=args, notes=(_UNVERIFIED,))


_DEEP = (2, 4, 32, 2)
_BASE = {"dim": 96, "depths": _DEEP, "num_heads": (4, 8, 16, 32)}

register_family(
    Family(
        model=CSwinTransformer,
        paper_name="CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows",
        paper_ids="arXiv:2107.00652",
        origin_url="https://github.com/microsoft/CSWin-Transformer",
        license="mit",
        key_map=CSWIN_KEYS,
        convert=convert_branches,
        averaged=True,
        sized=True,
        tiny={"dim": 16, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 2, 4), "mlp_ratio": 2.0, "img_size": 64},
        variants={
            "cswin_t": Variant({"depths": (1, 2, 21, 1)}, {"in1k": _cswin(82.7)}),
            "cswin_s": Variant({"depths": _DEEP}, {"in1k": _cswin(83.6)}),
            "cswin_b": Variant(
                _BASE,
                {"in1k": _cswin(84.2), "in1k_384": _cswin(85.4, 384, img_size=384, stripe_widths=(1, 2, 12, 0))},
            ),
        },
    )
)
