"""Published weights of SMT: addresses, key map, variants."""

from __future__ import annotations

import torch
from torch import nn

from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames
from backbones.models.smt.model import NORM_EPS, SMT

_URL = "https://github.com/AFeng-x/SMT/releases/download/v1.0.0"

_KEYS = (
    *renames("^", {"patch_embed1.conv.0": "stem.conv1", "patch_embed1.conv.1": "stem.norm1"}),
    *renames("^", {"patch_embed1.conv.3": "stem.conv2", "patch_embed1.norm": "stem.norm2"}),
    (r"^patch_embed(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.downsample."),
    (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
    (r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    (r"\.attn\.local_conv_(\d)\.", lambda m: f".attn.heads.convs.{int(m[1]) - 1}."),
    (r"\.attn\.(?:local_conv|dw_conv)\.", ".attn.lepe."),
    *renames(r"\.attn\.", {"proj0": "expand", "bn": "norm", "proj1": "mix"}),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Queries, keys and values come from one layer here, from two in the authors' files."""
    out = {}
    for key, value in state_dict.items():
        if ".attn.q." in key:
            out[key.replace(".q.", ".qkv.")] = torch.cat([value, state_dict[key.replace(".q.", ".kv.")]])
        elif ".attn.kv." not in key:
            out[key] = value
    return out


_BASE = {"depths": (4, 6, 28, 2), "mlp_ratios": (8, 6, 4, 2), "stem_kernel_size": 7}
_LARGE = {**_BASE, "dims": (96, 192, 384, 768), "depths": (4, 6, 28, 4), "layer_scale": 1e-4}
_22K_FIRST = "pre-trained on ImageNet-22K"

register_family(
    Family(
        model=SMT,
        paper_name="Scale-Aware Modulation Meet Transformer",
        paper_ids="arXiv:2307.08579",
        origin_url="https://github.com/AFeng-x/SMT",
        license="mit",
        key_map=_KEYS,
        convert=_convert,
        dense=DenseForm(eps=NORM_EPS),
        tiny={"dims": (32, 32, 64, 64), "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2), "mlp_ratios": (2, 2, 2, 2)},
        variants={
            "smt_t": Variant({"depths": (2, 2, 8, 1)}, {"in1k": Weights(f"{_URL}/smt_tiny.pth", top1=82.2)}),
            "smt_s": Variant({"depths": (3, 4, 18, 2)}, {"in1k": Weights(f"{_URL}/smt_small.pth", top1=83.7)}),
            "smt_b": Variant(_BASE, {"in1k": Weights(f"{_URL}/smt_base.pth", top1=84.3)}),
            "smt_l": Variant(
                _LARGE,
                {
                    "in22k_ft_in1k": Weights(f"{_URL}/smt_large_22k_224_ft.pth", top1=87.1, notes=(_22K_FIRST,)),
                    "in22k_ft_in1k_384": Weights(
                        f"{_URL}/smt_large_22k_384_ft.pth",
                        top1=88.1,
                        input_size=384,
                        crop_pct=1.0,
                        crop_mode="squash",
                        notes=(_22K_FIRST,),
                    ),
                    "in22k": Weights(f"{_URL}/smt_large_22k.pth", num_classes=21841),
                },
            ),
        },
    )
)
