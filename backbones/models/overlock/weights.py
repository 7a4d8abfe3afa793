"""Published weights of OverLoCK: addresses, key map, variants."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn

from backbones.layers.conv.reparam import DilatedReparamConv, merge_state_dict
from backbones.models.overlock.blocks import NORM_EPS
from backbones.models.overlock.model import OverLoCK
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames

_URL = "https://github.com/LMMMEng/OverLoCK/releases/download/v1"


def _stem_key(match: re.Match) -> str:
    i = int(match[1])
    return f"stem.{'norm' if i % 3 else 'conv'}{i // 3 + 1}."


def _unit_key(name: str) -> Callable[[re.Match], str]:
    """A unit [convolution, BatchNorm] (after a pooling in `weight_key`) of a focus block or a `ContMixBlock`."""
    first = 1 if name == "mix.key" else 0

    def rename(match: re.Match) -> str:
        return f"{match[1]}mixer.{name}.{'norm' if int(match[2]) > first else 'conv'}."

    return rename


_FOCUS = r"^(sub_blocks\d\.\d+\.|)"  # the prefix is empty in a ContMixBlock's own file
_BASE = r"^(blocks\d\.\d+\.)"

_KEYS = (
    (r"\.lk_origin\.", ".conv."),
    (r"\.origin_bn\.", ".norm."),
    (r"\.dil_conv_k(\d+)_(\d+)\.", r".branches.k\1_\2.conv."),
    (r"\.dil_bn_k(\d+)_(\d+)\.", r".branches.k\1_\2.norm."),
    *renames(_BASE, {"proj.0": "norm1", "proj.1": "mixer", "proj.2": "norm2"}),
    *renames(_BASE, {"proj.3.proj.1": "se.fc1", "proj.3.proj.3": "se.fc2"}),
    *renames(_BASE, {"proj.4": "mlp.fc1", "proj.6": "mlp.dwconv", "proj.7": "mlp.grn", "proj.8": "mlp.fc2"}),
    (_FOCUS + r"weight_query\.(\d)\.", _unit_key("mix.query")),
    (_FOCUS + r"weight_key\.(\d)\.", _unit_key("mix.key")),
    (_FOCUS + r"weight_value\.(\d)\.", _unit_key("mix.value")),
    (_FOCUS + r"weight_proj\.", r"\1mixer.mix.kernel_proj."),
    (_FOCUS + r"rpb([12])$", r"\1mixer.mix.rpb\2"),
    (_FOCUS + r"(?:dyconv|fusion)_proj\.(\d)\.", _unit_key("out")),
    (_FOCUS + r"gate\.(\d)\.", _unit_key("gate")),
    *renames(_FOCUS, {"lepe.0": "mixer.lepe", "lepe.1": "mixer.lepe_norm"}),
    *renames(_FOCUS, {"se_layer.proj.1": "mixer.se.fc1", "se_layer.proj.3": "mixer.se.fc2"}),
    *renames(_FOCUS, {"proj.0": "mixer.norm", "proj.1": "mixer.proj"}),
    *renames(_FOCUS, {"mlp.0": "mlp.fc1", "mlp.2": "mlp.dwconv", "mlp.3": "mlp.grn", "mlp.4": "mlp.fc2"}),
    (r"^patch_embed1\.(\d+)\.", _stem_key),
    *renames("^", {"patch_embed2": "stages.1.downsample", "patch_embed3": "stages.2.base.downsample"}),
    *renames("^", {"patch_embed4": "stages.2.overview.downsample", "high_level_proj": "stages.2.context_proj"}),
    *renames("^", {"patch_embedx.x_proj": "stages.3.downsample.features"}),
    *renames("^", {"patch_embedx.h_proj": "stages.3.downsample.context"}),
    (r"^(stages\.\d.*\.(?:downsample|features|context))\.0\.", r"\1.conv."),
    (r"^(stages\.\d.*\.(?:downsample|features|context))\.1\.", r"\1.norm."),
    *renames("^", {"blocks1": "stages.0.blocks", "blocks2": "stages.1.blocks"}),
    *renames("^", {"blocks3": "stages.2.base.blocks", "blocks4": "stages.2.overview.blocks"}),
    *renames("^", {"sub_blocks3": "stages.2.focus.blocks", "sub_blocks4": "stages.3.blocks"}),
    *renames("^", {"head.0": "head.conv", "head.1": "head.norm", "head.4": "head.fc"}),
    *renames("^", {"aux_head.0": "aux_head.norm", "aux_head.2": "aux_head.fc"}),
    *renames("^", {"extra_norm.4": "overview_norm", "h_proj": "overview_proj"}),
)
_MATRICES = ("head.fc.weight", "aux_head.fc.weight", "kernel_proj.weight")  # 1x1 convolutions in the authors' files


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Fit the checkpoint's large kernels (training or merged form) and auxiliary head to those of the model.

    Raises:
        ValueError: The checkpoint is merged and the model is not.
    """
    large = {name: m for name, m in model.named_modules() if isinstance(m, DilatedReparamConv)}
    if any(m.merged for m in large.values()):
        state_dict = merge_state_dict(state_dict)
    elif any(f"{name}.conv.bias" in state_dict for name in large):
        raise ValueError(
            "the checkpoint is in merged (re-parameterised) form, which cannot be taken apart: create the model with"
            " merged=True, or load the training-form checkpoint"
        )
    state_dict = {k: v.flatten(1) if k.endswith(_MATRICES) else v for k, v in state_dict.items()}
    aux_head = getattr(model, "aux_head", None)
    if aux_head is None:
        return {k: v for k, v in state_dict.items() if not k.startswith("aux_head.")}
    if "aux_head.fc.bias" in state_dict and state_dict["aux_head.fc.bias"].shape != aux_head.fc.bias.shape:
        return {k: v for k, v in state_dict.items() if not k.startswith("aux_head.fc.")}
    return state_dict


def _variant(
    size: str,
    dims: tuple[int, ...],
    depths: tuple[int, ...],
    sub_depths: tuple[int, ...],
    sub_num_heads: tuple[int, ...],
    crop_pct: float,
    top1: float,
) -> Variant:
    file = f"{_URL}/overlock_{size}_in1k_224"
    merged = Weights(f"{file}_reparam.pth", crop_pct=crop_pct, top1=top1, args={"merged": True})
    return Variant(
        {"dims": dims, "depths": depths, "sub_depths": sub_depths, "sub_num_heads": sub_num_heads},
        {"in1k": Weights(f"{file}.pth", crop_pct=crop_pct, top1=top1), "in1k_reparam": merged},
    )


register_family(
    Family(
        model=OverLoCK,
        paper_name="OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels",
        paper_ids="arXiv:2502.20087",
        origin_url="https://github.com/LMMMEng/OverLoCK",
        license="apache-2.0",
        key_map=_KEYS,
        dense=DenseForm(keys=r"^extra_norm\.([0-3])\.", eps=NORM_EPS, only=r"^overview_(norm|proj)\."),
        convert=_convert,
        complete={"aux_head": True},
        tiny={
            "dims": (32, 32, 64, 64),
            "depths": (1, 1, 1, 1),
            "sub_depths": (2, 1),
            "sub_num_heads": (2, 2),
            "kernel_sizes": (7, 7, 5, 5),
            "head_size": 128,
        },
        variants={
            "overlock_xt": _variant("xt", (56, 112, 256, 336), (2, 2, 3, 2), (6, 2), (4, 6), 0.925, 82.7),
            "overlock_t": _variant("t", (64, 128, 256, 512), (4, 4, 6, 2), (12, 2), (4, 8), 0.95, 84.2),
            "overlock_s": _variant("s", (64, 128, 320, 512), (6, 6, 8, 3), (16, 3), (8, 16), 0.95, 84.8),
            "overlock_b": _variant("b", (80, 160, 384, 576), (8, 8, 10, 4), (20, 4), (6, 9), 0.975, 85.1),
        },
    )
)
