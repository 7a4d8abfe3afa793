"""Published weights of TransXNet: addresses, key map, variants."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import nn

from backbones.layers.attention.reduction import PairBias
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames
from backbones.models.transxnet.model import TransXNet


def _stage(match: re.Match) -> str:
    """The authors' network holds stages and downsamplings in turn."""
    i = int(match[1])
    return f"stages.{(i + 1) // 2}.downsample." if i % 2 else f"stages.{i // 2}.blocks."


_ENHANCER = {"0": "dwconv", "2": "norm1", "3": "conv1", "5": "norm2", "6": "conv2", "7": "norm3"}
_KEYS = (
    (r"^patch_embed\.proj\.", "stem."),
    (r"^relative_pos_enc\.(\d)$", r"stages.\1.attn_bias.table"),
    (r"^norm([0246])\.", lambda match: f"out_norms.{int(match[1]) // 2}."),
    (r"^network\.(\d)\.proj\.", _stage),
    (r"^network\.(\d)\.", _stage),
    (r"^classifier\.0\.", "norm."),
    (r"^classifier\.2\.", "head.fc."),
    (r"\.bn\.", ".norm."),
    (r"\.pos_embed\.", ".dwconv."),
    (r"\.layer_scale_([12])\.", r".ls\1."),
    *renames(r"\.", {"token_mixer.local_unit.proj.0": "mixer.conv.reduce"}),
    *renames(r"\.", {"token_mixer.local_unit.proj.1": "mixer.conv.expand", "token_mixer.local_unit": "mixer.conv"}),
    *renames(r"\.", {"token_mixer.global_unit.sr.0": "mixer.attn.reduce.0"}),
    *renames(r"\.", {"token_mixer.global_unit.sr.1": "mixer.attn.reduce.2", "token_mixer.global_unit": "mixer.attn"}),
    (r"\.token_mixer\.proj\.(\d)\.", lambda match: f".mixer.proj.{_ENHANCER[match[1]]}."),
    (r"\.mlp\.fc([12])\.0\.", r".mlp.fc\1."),
    *renames(r"\.mlp\.", {"fc1.2": "norm1", "norm": "norm2", "fc2.1": "norm3", "dwconv.proj": "dwconv.convs"}),
)
_MATRICES = (".attn.q.weight", ".attn.kv.weight", "head.fc.weight")


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Make linears of 1x1 convolutions, and bring tables of another image size and the model together."""
    out = {key: value.flatten(1) if key.endswith(_MATRICES) else value for key, value in state_dict.items()}
    for name, module in model.named_modules():
        table = out.get(f"{name}.table")
        if not isinstance(module, PairBias) or table is None or table.shape[2:] == module.table.shape[2:]:
            continue
        if model.adopt_tables:
            module.table = nn.Parameter(module.table.new_empty(table.shape), module.table.requires_grad)
        else:
            size = module.table.shape[2:]
            out[f"{name}.table"] = F.interpolate(table.float(), size=size, mode="bicubic").to(table.dtype)
    return out


_ADOPTED = "the model takes the size of the file's position tables"
_URL = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0"


def _file(name: str, top1: float, crop_pct: float = 0.9, **kwargs) -> Weights:
    return Weights(f"{_URL}/transx-{name}.pth.tar", top1=top1, crop_pct=crop_pct, **kwargs)


def _variant(dims, depths, num_groups, num_heads, mlp_ratios, weights: dict[str, Weights]) -> Variant:
    args = {"num_groups": num_groups, "num_heads": num_heads, "mlp_ratios": mlp_ratios}
    return Variant({"dims": dims, "depths": depths, **args}, weights)


register_family(
    Family(
        model=TransXNet,
        paper_name="TransXNet: Learning Both Global and Local Dynamics with a Dual Dynamic Token Mixer",
        paper_ids="arXiv:2310.19380",
        origin_url="https://github.com/LMMMEng/TransXNet",
        license="apache-2.0",
        key_map=_KEYS,
        dense=DenseForm(norm="group", keys=r"^norm([0246])\."),
        convert=_convert,
        first_conv="stem.conv",
        tiny={
            "dims": (32, 32, 64, 64),
            "depths": (1, 1, 2, 1),
            "num_groups": (2, 2, 3, 2),
            "num_heads": (1, 2, 2, 4),
            "mlp_ratios": (2, 2, 2, 2),
            "img_size": 64,
        },
        variants={
            "transxnet_t": Variant({}, {"in1k": _file("t", 81.6)}),
            "transxnet_s": _variant(
                (64, 128, 320, 512), (4, 4, 12, 4), (2, 2, 3, 4), (1, 2, 5, 8), (6, 6, 4, 4), {"in1k": _file("s", 83.8)}
            ),
            "transxnet_b": _variant(
                (76, 152, 336, 672),
                (4, 4, 21, 4),
                (2, 2, 4, 4),
                (2, 4, 8, 16),
                (8, 8, 4, 4),
                {
                    "in1k": _file("b", 84.6, crop_pct=0.95),
                    "in1k_384": _file("b-384", 85.5, crop_pct=0.95, input_size=384, notes=(_ADOPTED,)),
                },
            ),
        },
    )
)
