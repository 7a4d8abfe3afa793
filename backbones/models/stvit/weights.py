"""Published weights of STViT: address, key map, variants."""

from __future__ import annotations

import torch
from torch import nn

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family
from backbones.models.stvit.model import STViT


def _stem(kind: str, first: int) -> tuple[tuple[str, str], ...]:
    return tuple((rf"^patch_embed\.proj\.{first + 3 * i}\.", f"stem.{kind}{i + 1}.") for i in range(4))


_KEYS = (
    *_stem("conv", 0),
    *_stem("norm", 2),
    (r"^layers\.(\d)\.downsample\.proj\.0\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.conv."),
    (r"^layers\.(\d)\.downsample\.proj\.1\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.norm."),
    (r"^layers\.(\d)\.", r"stages.\1."),
    (r"\.pos_embed\.conv\.", ".pos_embed."),
    (r"\.norm1\.norm\.", ".norm1."),
    (r"\.attn\.stoken_refine\.", ".attn."),
    (r"\.mlp2\.conv\.conv\.", ".mlp.dwconv."),
    (r"\.mlp2\.", ".mlp."),
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    (r"^proj\.", "head.conv."),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The attention's 1x1 convolutions are linears here, and its channels hold all queries, then all keys, all values.

    The authors' hold query, key and value of one head after another.
    """
    out = dict(state_dict)
    for name, module in model.named_modules():
        if not isinstance(module, GlobalAttention2d) or out.get(f"{name}.qkv.weight", torch.empty(0)).ndim != 4:
            continue
        for kind in ("weight", "bias"):
            heads = out[f"{name}.qkv.{kind}"].unflatten(0, (module.num_heads, 3, -1))
            out[f"{name}.qkv.{kind}"] = heads.transpose(0, 1).flatten(0, 2)
    matrices = (".attn.qkv.weight", ".attn.proj.weight")
    return {key: value.flatten(1) if key.endswith(matrices) else value for key, value in out.items()}


_FOLDER = "https://drive.google.com/drive/folders/1uaT5OarQd9iPrnFufHocHpM3zhyTcetB?usp=sharing"


def _files(size: str, top1: float, top1_384: float) -> dict[str, Weights]:
    notes = tuple(f"the file is stvit-{size}-{side}.pth" for side in (224, 384))
    return {
        "in1k": Weights(page=_FOLDER, top1=top1, notes=notes[:1]),
        "in1k_384": Weights(page=_FOLDER, top1=top1_384, input_size=384, crop_pct=1.0, notes=notes[1:]),
    }


_SCALED = {"layer_scales": (None, None, 1e-6, 1e-6)}

register_family(
    Family(
        model=STViT,
        paper_name="Vision Transformer with Super Token Sampling",
        paper_ids="arXiv:2211.11167",
        origin_url="https://github.com/hhb072/STViT",
        license="unknown",
        key_map=_KEYS,
        drop_keys=r"\.attn\.(unfold|fold)\.weights$",
        dense=DenseForm(norm=None),
        convert=_convert,
        tiny={
            "dims": (16, 32, 32, 64),
            "depths": (1, 1, 2, 1),
            "num_heads": (1, 2, 2, 4),
            "mlp_ratio": 2.0,
            "head_size": 48,
        },
        variants={
            "stvit_s": Variant({}, _files("small", 83.6, 85.0)),
            "stvit_b": Variant(
                {"dims": (96, 192, 384, 512), "depths": (4, 6, 14, 6), "num_heads": (2, 3, 6, 8), **_SCALED},
                _files("base", 84.8, 86.0),
            ),
            "stvit_l": Variant(
                {"dims": (96, 192, 448, 640), "depths": (4, 7, 19, 8), "num_heads": (2, 3, 7, 10), **_SCALED},
                _files("large", 85.3, 86.4),
            ),
        },
    )
)
