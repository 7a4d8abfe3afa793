"""Published weights of PATNet: addresses, key map, variants."""

from __future__ import annotations

from backbones.models.patnet.model import PATNet
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames

_BLOCK = r"^(stages\.\d+\.blocks\.\d+\.)"
_KEYS = (
    (r"^patch_embed\.proj\.", "stem.conv."),
    (r"^patch_embed\.norm\.", "stem.norm."),
    (r"^stages\.([135])\.reduction\.", lambda m: f"stages.{(int(m[1]) + 1) // 2}.downsample.conv."),
    (r"^stages\.([135])\.norm\.", lambda m: f"stages.{(int(m[1]) + 1) // 2}.downsample.norm."),
    (
        r"^stages\.([0246])\.(blocks\.\d+\.(?:spatial_mixing\.|mlp\.|layer_scale$))",
        lambda m: f"stages.{int(m[1]) // 2}.{m[2]}",
    ),
    (_BLOCK + r"layer_scale$", r"\1ls.gamma"),
    *renames(_BLOCK, {"mlp.0": "fc1.conv", "mlp.1": "fc1.norm", "mlp.3": "fc2"}),
    *renames(_BLOCK, {"mlp.4.conv_attn": "gate.score", "mlp.4.conv": "gate.mix"}),
    *renames(_BLOCK, {"mlp.4.norm": "gate.norm1", "mlp.4.norm2": "gate.norm2"}),
    *renames(_BLOCK, {"spatial_mixing.partial_conv3": "mixer.conv"}),
    *renames(_BLOCK, {"spatial_mixing.attn.cfc1": "mixer.rest.mix", "spatial_mixing.attn.bn": "mixer.rest.norm1"}),
    (r"^(stages\.[012]\.blocks\.\d+\.)spatial_mixing\.norm\.", r"\1mixer.rest.norm2."),
    (_BLOCK + r"spatial_mixing\.norm\.", r"\1mixer.rest.norm."),
    (
        _BLOCK + r"spatial_mixing\.attn\.rpe_k\.lookup_table_bias",
        r"\1mixer.rest.attn.rel_pos.relative_position_bias_table",
    ),
    (_BLOCK + r"spatial_mixing\.attn\.", r"\1mixer.rest.attn."),
    (r"^avgpool_pre_head\.1\.", "head.conv."),
    (r"^norm([0246])\.", lambda m: f"out_norms.{int(m[1]) // 2}."),
)


def _variant(dim: int, depths: tuple[int, ...], top1: float | None = None, **args) -> Variant:
    weights = Weights(crop_pct=0.9, top1=top1, notes=("announced, not published",))
    return Variant({"dims": (dim, 2 * dim, 4 * dim, 8 * dim), "depths": depths, **args}, {"in1k": weights})


_RELU = {"act_layer": "relu"}

register_family(
    Family(
        model=PATNet,
        paper_name="Partial Convolution Meets Visual Attention",
        paper_ids="arXiv:2503.03148",
        origin_url="https://github.com/haiduo/PartialNet",
        license="mit",
        key_map=_KEYS,
        dense=DenseForm(norm="batch", keys=r"^norm([0246])\."),
        first_conv="stem.conv",
        tiny={"dims": (16, 32, 32, 64), "depths": (1, 1, 2, 1), "head_size": 96},
        variants={
            "patnet_t0": _variant(32, (1, 2, 8, 2)),
            "patnet_t1": _variant(48, (1, 2, 8, 2), position_gate=True),
            "patnet_t2": _variant(64, (2, 2, 6, 4), 80.2, **_RELU),
            "patnet_s": _variant(96, (2, 2, 9, 4), **_RELU),
            "patnet_m": _variant(128, (2, 3, 16, 4), **_RELU),
            "patnet_l": _variant(160, (2, 3, 20, 4), **_RELU),
        },
    )
)
