"""Variants of HaloNet, and timm's weights of the hybrids; the authors of the paper publish none.

timm has the name `halonet_h1` for a model with ReLU and eight heads in every stage, so the paper's is
`halonet_h1_paper`. Files of timm's HaloNets load into ours of the same structure.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from torch import nn

from backbones.models.halonet.model import HaloNet
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames

_KEYS = (
    # In timm's features-only form, the first levels are joined by "_".
    (r"^stem[._]conv(\d)\.", lambda m: f"stem.convs.{int(m[1]) - 1}."),
    (r"^stem\.(conv|bn)\.", r"stem.convs.0.\1."),
    (r"^stages[._](\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    *renames(
        r"^stages\.\d\.blocks\.\d+\.",
        {
            "conv1_1x1": "conv1",
            "conv3_1x1": "conv3",
            "conv2_kxk.conv": "mixer",
            "conv2_kxk.bn": "norm2",
            "self_attn": "mixer",
            "post_attn": "norm2",
            "attn": "gate",
        },
    ),
    (r"^final_conv\.", "head."),
    (r"\.bn\.", ".norm."),
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Projections of attention are linear here, 1x1 convolutions in timm; tables of another window are resized."""
    matrices = (".mixer.q.weight", ".mixer.kv.weight")
    out = {key: value.flatten(1) if key.endswith(matrices) else value for key, value in state_dict.items()}
    for name, parameter in model.named_parameters():
        if name.endswith("_rel") and name in out and len(out[name]) != len(parameter):
            table = out[name].float().T[None]
            out[name] = F.interpolate(table, len(parameter), mode="linear", align_corners=True)[0].T.to(out[name].dtype)
    return out


_UNPUBLISHED = "the authors publish no weights"


def _paper(
    depth: int,
    ratio: float,
    input_size: int,
    block_size: int = 8,
    halo_size: int = 3,
    top1: float | None = None,
    depths: tuple[int, ...] = (3, 3, 0, 3),
    width: int = 64,
    **args: Any,
) -> Variant:
    """A row of the paper's table of models: `depth` blocks in stage 3, and `ratio`, r_b, for the blocks' output."""
    widths = tuple(width * 2**i for i in range(4))
    layout = tuple("A" * (count or depth) for count in depths)
    dims = tuple(int(ratio * width) for width in widths)
    args = {"layout": layout, "dims": dims, "widths": widths, **args}
    args |= {"block_size": block_size, "halo_size": halo_size}
    return Variant(args, {"in1k": Weights(input_size=input_size, top1=top1, notes=(_UNPUBLISHED,))})


_URL = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-attn-weights"
_HYBRID = {
    "dims": (256, 512, 1024, 2048),
    "widths": (64, 128, 256, 512),
    "num_heads": (8, 8, 8, 8),
    "stem_widths": (24, 32, 64),
    "stem_strides": (2, 1, 1),
    "stem_kernel": 3,
}


def _hybrid(file: str, timm_name: str, top1: float, args: dict[str, Any], **weights: Any) -> Variant:
    weights = {"input_size": 256, "crop_pct": 0.94, **weights}
    notes = (f"timm's {timm_name}; this accuracy is timm's measurement",)
    return Variant({**_HYBRID, **args}, {"in1k": Weights(f"{_URL}/{file}.pth", top1=top1, notes=notes, **weights)})


register_family(
    Family(
        model=HaloNet,
        paper_name="HaloNet: Scaling Local Self-Attention for Parameter Efficient Visual Backbones",
        paper_ids="arXiv:2103.12731",
        origin_url="https://github.com/huggingface/pytorch-image-models",
        license="apache-2.0",
        key_map=_KEYS,
        convert=_convert,
        dense=DenseForm(norm=None),
        first_conv="stem.convs.0.conv",
        tiny={
            "layout": ("A", "B", "B", "BA"),
            "dims": (16, 24, 32, 48),
            "widths": (16, 16, 16, 32),
            "num_heads": (2, 2, 2, 4),
            "head_dim": None,
            "qk_ratio": 1.0,
            "value_ratio": 1.5,
            "block_size": 4,
            "halo_size": 1,
            "stem_widths": (8, 16),
            "stem_strides": (2, 1),
            "stem_kernel": 3,
            "stem_pool": True,
            "group_size": 8,
            "gate": "se",
            "se_ratio": 0.5,
            "head_size": 128,
            "act": "silu",
        },
        variants={
            "halonet_h0": _paper(7, 0.5, 256),
            "halonet_h1_paper": _paper(10, 1, 256),
            "halonet_h2": _paper(11, 1.25, 256),
            "halonet_h3": _paper(12, 1.5, 320, 10, 3, head_size=1280),
            "halonet_h4": _paper(12, 3, 384, 12, 2, head_size=1280),
            "halonet_h5": _paper(23, 2, 448, 14, 2, value_ratio=2.5, head_size=1536),
            "halonet_h6": _paper(24, 2.75, 512, 8, 4, value_ratio=3, head_size=1536),
            "halonet_h7": _paper(26, 3.5, 600, 10, 3, 84.9, value_ratio=4, head_size=2048),
            "halonet_50": _paper(6, 4, 256, depths=(3, 4, 0, 3), num_heads=(4, 8, 16, 32), top1=79.9, act="relu"),
            "halonet_h4_base128": _paper(12, 4, 256, 8, 2, depths=(3, 4, 0, 3), width=128),
            "halonet_26t": _hybrid(
                "halonet26t_a1h_256-3083328c",
                "halonet26t",
                79.134,
                {"layout": ("BB", "BB", "BA", "AA"), "halo_size": 2, "act": "relu"},
                crop_pct=0.95,
            ),
            "halonet_50ts": _hybrid(
                "halonet50ts_a1h2_256-f3a3daee",
                "halonet50ts",
                81.640,
                {"layout": ("BBB", "BBBA", "BABABA", "BAB"), "num_heads": (8, 4, 8, 8)},
            ),
            "halonet_se33ts": _hybrid(
                "sehalonet33ts_256-87e053f9",
                "sehalonet33ts",
                80.976,
                {
                    "layout": ("BB", "BBA", "BBA", "AA"),
                    "dims": (256, 512, 1024, 1536),
                    "stem_strides": (2, 1, 2),
                    "stem_pool": False,
                    "gate": "se",
                    "head_size": 1280,
                },
            ),
            "halonet_eca26ts": _hybrid(
                "eca_halonext26ts_c_256-06906299",
                "eca_halonext26ts",
                79.518,
                {
                    "layout": ("BB", "BB", "BA", "AA"),
                    "halo_size": 2,
                    "head_dim": 16,
                    "group_size": 16,
                    "gate": "eca",
                },
            ),
            "halonet_regnetz_b": _hybrid(
                "haloregnetz_c_raa_256-c8ad7616",
                "haloregnetz_b",
                81.058,
                {
                    "layout": ("BB", "BBBBBB", "BBBA" * 3, "AA"),
                    "dims": (48, 96, 192, 288),
                    "widths": None,
                    "expand_ratio": 3.0,
                    "qk_ratio": 0.33,
                    "block_size": 7,
                    "halo_size": 2,
                    "stem_widths": (32,),
                    "stem_strides": (2,),
                    "stem_pool": False,
                    "group_size": 16,
                    "gate": "se",
                    "se_ratio": 0.25,
                    "linear": True,
                    "head_size": 1536,
                },
                input_size=224,
                mean=IMAGENET_INCEPTION_MEAN,
                std=IMAGENET_INCEPTION_STD,
            ),
        },
    )
)
