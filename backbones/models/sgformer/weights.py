"""Published weights of SG-Former: address, key map, variants."""

from __future__ import annotations

import math

import torch
from torch import nn

from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family
from backbones.models.sgformer.model import NORM_EPS, SGFormer, resized

_KEYS = (
    (r"^pos_embed$", "stem.pos_embed"),
    (r"^patch_embed1\.conv\.([024])\.c\.", lambda m: f"stem.conv{int(m[1]) // 2 + 1}."),
    (r"^patch_embed1\.conv\.([024])\.bn\.", lambda m: f"stem.norm{int(m[1]) // 2 + 1}."),
    (r"^patch_embed1\.norm\.", "stem.norm4."),
    (r"^patch_embed(\d)\.conv(\d)\.c\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.conv{m[2]}."),
    (r"^patch_embed(\d)\.conv(\d)\.bn\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.norm{m[2]}."),
    (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
    (r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
    (r"\.attn\.sr\.", ".attn.reduce."),
    (r"\.attn\.f(\d)\.", lambda m: f".attn.merge.{int(m[1]) - 1}."),
    (r"\.attn\.lepe_linear\.", ".attn.lepe.proj."),
    (r"\.attn\.lepe_conv\.", ".attn.lepe.conv."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Projections of one input are one layer here, as are the two of keys and values of the guided attention.

    The position table is an image here, and brought to the size of the model's.
    """
    out = dict(state_dict)
    for key in state_dict:
        prefix, _, name = key.rpartition(".attn.")
        layer, _, kind = name.rpartition(".")

        def take(layer: str, prefix: str = prefix, kind: str = kind) -> torch.Tensor:
            return out.pop(f"{prefix}.attn.{layer}.{kind}")

        if layer == "q1":  # hybrid
            out[f"{prefix}.attn.qkv.{kind}"] = torch.cat((take("q1"), take("q2"), take("kv2")))
            out[f"{prefix}.attn.kv.{kind}"] = take("kv1")
        elif layer == "q" and f"{prefix}.attn.kv1.{kind}" in out:  # guided
            keys, values = zip(take("kv1").chunk(2), take("kv2").chunk(2))
            out[f"{prefix}.attn.kv.{kind}"] = torch.cat((*keys, *values))
        elif layer == "q" and f"{prefix}.attn.merge.0.weight" not in out:  # plain
            out[f"{prefix}.attn.qkv.{kind}"] = torch.cat((take("q"), take("kv")))
    table = out.get("stem.pos_embed")
    if table is not None:
        if table.ndim == 3:
            table = table.unflatten(1, (math.isqrt(table.shape[1]), -1))
        out["stem.pos_embed"] = resized(table, *model.get_parameter("stem.pos_embed").shape[1:3])
    return out


_FOLDER = "https://drive.google.com/drive/folders/1ZJDEwDxffqqqzBC2SzhOkpWpGRweDsE4?usp=sharing"


def _file(size: str, top1: float) -> dict[str, Weights]:
    notes = (f"the file is named like SG-Former-{size}.pth; of its two sets of weights the moving average is taken",)
    return {"in1k": Weights(page=_FOLDER, crop_pct=0.9, top1=top1, notes=notes)}


register_family(
    Family(
        model=SGFormer,
        paper_name="SG-Former: Self-guided Transformer with Evolving Token Reallocation",
        paper_ids="arXiv:2308.12216",
        origin_url="https://github.com/OliverRensu/SG-Former",
        license="unknown",
        key_map=_KEYS,
        averaged=True,
        dense=DenseForm(eps=NORM_EPS),
        convert=_convert,
        tiny={
            "dims": (16, 32, 32, 64),
            "depths": (2, 2, 2, 1),
            "num_heads": (2, 2, 2, 4),
            "mlp_ratios": (2, 2, 2, 2),
            "img_size": 64,
        },
        variants={
            "sgformer_s": Variant({"depths": (2, 4, 16, 1)}, _file("S", 83.2)),
            "sgformer_m": Variant({"depths": (2, 6, 28, 2)}, _file("M", 84.1)),
            "sgformer_b": Variant(
                {"dims": (96, 192, 384, 768), "depths": (4, 6, 24, 2), "num_heads": (4, 6, 12, 24)}, _file("B", 84.7)
            ),
        },
    )
)
