"""Published weights of TransNeXt and MoH-ViT: addresses, key map, variants."""

from __future__ import annotations

import torch
from torch import nn

from backbones.models.moh.model import MoHTransNeXt
from backbones.models.moh.transnext import TransNeXt
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames

_KEYS = (
    (r"^patch_embed1\.proj\.", "stem.conv."),
    (r"^patch_embed1\.norm\.", "stem.norm."),
    (r"^patch_embed(\d)\.proj\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.conv."),
    (r"^patch_embed(\d)\.norm\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.norm."),
    (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
    (r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
    *renames(r"\.attn\.", {"cpb_fc1": "rel_pos.fc1", "cpb_fc2": "rel_pos.fc2"}),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),
)
_DROP_KEYS = r"relative_pos_index|relative_coords_table|seq_length_scale|padding_mask"
# The authors' detectors and segmentors take the maps after the norms of the stages.
_DENSE = DenseForm(norm=None, eps=1e-6)
_TINY = {"depths": (1, 1, 2, 1), "mlp_ratios": (2, 2, 2, 2)}


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The 1x1 convolution before pooling is a linear layer here."""
    return {key: value.flatten(1) if key.endswith(".sr.weight") else value for key, value in state_dict.items()}


def _files(size: str, top1: float, top1_384: float | None = None) -> dict[str, Weights]:
    address = "https://huggingface.co/DaiShiResearch/transnext-{}/resolve/main/transnext_{}.pth"
    weights = {"in1k": Weights(address.format(f"{size}-224-1k", f"{size}_224_1k"), top1=top1)}
    if top1_384 is not None:
        url = address.format(f"{size}-384-1k-ft-1k", f"{size}_384_1k_ft_1k")
        # Larger images are not cropped.
        more = {"input_size": 384, "crop_pct": 1.0, "crop_mode": "squash"}
        weights["in1k_384"] = Weights(url, top1=top1_384, **more)
    return weights


def _file(size: str, name: str, top1: float) -> dict[str, Weights]:
    url = f"https://huggingface.co/Chat-UniVi/MoH-ViT-{size}/resolve/main/moh_transnext_{name}.pth"
    return {"in1k": Weights(url, top1=top1)}


_SMALL = {"depths": (5, 5, 22, 5)}
_BASE = {"dims": (96, 192, 384, 768), "depths": (5, 5, 23, 5), "num_heads": (4, 8, 16, 32)}

register_family(
    Family(
        model=TransNeXt,
        paper_name="TransNeXt: Robust Foveal Visual Perception for Vision Transformers",
        paper_ids="arXiv:2311.17132",
        origin_url="https://github.com/DaiShiResearch/TransNeXt",
        license="apache-2.0",
        key_map=_KEYS,
        drop_keys=_DROP_KEYS,
        convert=_convert,
        dense=_DENSE,
        first_conv="stem.conv",
        tiny={**_TINY, "dims": (16, 32, 32, 64), "num_heads": (2, 2, 2, 4)},
        variants={
            "transnext_micro": Variant({"dims": (48, 96, 192, 384), "num_heads": (2, 4, 8, 16)}, _files("micro", 82.5)),
            "transnext_tiny": Variant({}, _files("tiny", 84.0)),
            "transnext_small": Variant(_SMALL, _files("small", 84.7, 86.0)),
            "transnext_base": Variant(_BASE, _files("base", 84.8, 86.2)),
        },
    )
)

register_family(
    Family(
        model=MoHTransNeXt,
        paper_name="MoH: Multi-Head Attention as Mixture-of-Head Attention",
        paper_ids="arXiv:2410.11842",
        origin_url="https://github.com/SkyworkAI/MoH",
        license="apache-2.0",
        key_map=(
            *renames(
                r"^block\d\.\d+\.",
                {"attn.wg": "router.routed", "attn.wg_0": "router.balance", "attn.wg_1": "router.shared"},
            ),
            *_KEYS,
        ),
        drop_keys=_DROP_KEYS,
        convert=_convert,
        dense=_DENSE,
        first_conv="stem.conv",
        tiny={
            **_TINY,
            "dims": (16, 32, 32, 64),
            "num_heads": (2, 4, 4, 4),
            "shared_heads": (2, 1, 1, 2),
            "routed_heads": (0, 2, 2, 2),
        },
        variants={
            "moh_transnext_small_75": Variant(_SMALL, _file("S-75", "small_75", 84.6)),
            "moh_transnext_small_80": Variant(
                {**_SMALL, "shared_heads": (3, 6, 3, 8)}, _file("S-80", "small_80", 84.7)
            ),
            "moh_transnext_base_75": Variant(
                {**_BASE, "shared_heads": (4, 8, 4, 5), "routed_heads": (0, 0, 8, 16)}, _file("B-75", "base_75", 84.9)
            ),
            "moh_transnext_base_50": Variant(
                {**_BASE, "shared_heads": (2, 2, 2, 4), "routed_heads": (2, 4, 6, 8)}, _file("B-50", "base_50", 84.7)
            ),
        },
    )
)
