"""Weights of CrossFormer and CrossFormer++: addresses, key map, variants.

The files of 2021 (CrossFormer) hold tables and indices of position offsets for every block, which are dropped. The
authors' detectors of CrossFormer were trained with the grouping `grouping="dense-2021"`.
"""

from __future__ import annotations

from backbones.models.crossformer.model import CrossFormer
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family

_KEYS = (
    (r"^patch_embed\.projs\.", "stem.embed.convs."),
    (r"^patch_embed\.norm\.", "stem.norm."),
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
    (r"\.downsample\.reductions\.", ".downsample.embed.convs."),
    (r"^layers\.", "stages."),
    (r"\.attn\.pos\.pos_proj\.", ".attn.rel_pos.proj."),
    (r"\.attn\.pos\.pos(\d)\.", lambda m: f".attn.rel_pos.layers.{int(m[1]) - 1}."),
    (r"\.ex_conv\.", ".cooling.conv."),
    (r"\.ex_ln\.", ".cooling.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

_BAIDU = "https://pan.baidu.com/s"


def _drive(file: str, baidu: str, key: str, top1: float) -> dict[str, Weights]:
    page = f"https://drive.google.com/file/d/{file}/view?usp=sharing"
    return {"in1k": Weights(page=page, top1=top1, notes=(f"also at {_BAIDU}/{baidu}, with the password {key}",))}


def _baidu(file: str, top1: float, *notes: str) -> dict[str, Weights]:
    return {"in1k": Weights(page=f"{_BAIDU}/{file}?pwd=crsf", top1=top1, notes=notes)}


def _variant(dim: int, depths: tuple[int, ...], weights: dict[str, Weights], **args) -> Variant:
    heads = tuple(dim // 32 * 2**i for i in range(4))
    return Variant({"dim": dim, "depths": depths, "num_heads": heads, **args}, weights)


_PLUS = {"group_sizes": (4, 4, 14, 7), "intervals": (4, 2, 1, 1), "cooling": True}
_DEEP = (2, 2, 18, 2)
_ONE_LINK = "the README gives the L and the H model the same address"

_COMMON = {
    "model": CrossFormer,
    "origin_url": "https://github.com/cheerss/CrossFormer",
    "license": "mit",
    "key_map": _KEYS,
    "drop_keys": r"\.attn\.biases$|\.attn\.relative_position_index$|attn_mask$",
    "dense": DenseForm(norm=None, args={"grouping": "dense"}),
    "first_conv": tuple(f"stem.embed.convs.{i}" for i in range(4)),
}
_TINY = {"dim": 64, "num_heads": (2, 2, 4, 4), "mlp_ratio": 1.0, "intervals": (4, 2, 2, 1)}

register_family(
    Family(
        **_COMMON,
        paper_name="CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention",
        paper_ids="arXiv:2108.00154",
        tiny={**_TINY, "depths": (1, 2, 1, 1), "group_sizes": (4, 4, 4, 4)},
        variants={
            "crossformer_t": _variant(
                64, (1, 1, 8, 6), _drive("1YSkU9enn-ITyrbxLH13zNcBYvWSEidfq", "1M45YXZgVvp6Ew9DO8UhdlA", "nkju", 81.5)
            ),
            "crossformer_s": _variant(
                96, (2, 2, 6, 2), _drive("1RAkigsgr33va0RZ85S2Shs2BhXYcS6U8", "1Xf4MXfb_soCnJFBeNDmoQQ", "fgqj", 82.5)
            ),
            "crossformer_b": _variant(
                96, _DEEP, _drive("1bK8biVCi17nz_nkt7rBfio_kywUpllSU", "1f5dH__UGDXb-HoOPHT5p0A", "7md9", 83.4)
            ),
            "crossformer_l": _variant(
                128, _DEEP, _drive("1zRWByVW_KIZ87NgaBkDIm60DAsGJErdG", "1YJLeHy_cxLBrZLklQBCA_A", "cc89", 84.0)
            ),
        },
    )
)

register_family(
    Family(
        **_COMMON,
        paper_name="CrossFormer++: A Versatile Vision Transformer Hinging on Cross-scale Attention",
        paper_ids="arXiv:2303.06908",
        tiny={**_TINY, "depths": (4, 1, 1, 1), "group_sizes": (2, 4, 4, 4)},
        variants={
            "crossformer_pp_s": _variant(64, _DEEP, _baidu("1smc_kRoogd0Ig5vfqwuGTA", 83.2), **_PLUS),
            "crossformer_pp_b": _variant(96, _DEEP, _baidu("13XVP0ebtNcyRMmkl11ALYg", 84.2), **_PLUS),
            "crossformer_pp_l": _variant(128, _DEEP, _baidu("1xtPh-ndcOxRM7fPYYxIIRg", 84.7, _ONE_LINK), **_PLUS),
            "crossformer_pp_h": _variant(
                128, (6, 6, 18, 2), _baidu("1xtPh-ndcOxRM7fPYYxIIRg", 84.9, _ONE_LINK), **_PLUS
            ),
        },
    )
)
