"""Published weights of VAN: addresses, key map, variants."""

from __future__ import annotations

import torch
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from torch import nn

from backbones.models.registry import Family, Variant, Weights, register_family, renames
from backbones.models.van.model import VAN

_KEYS = (
    (r"^patch_embed1\.proj\.", "stem.conv."),
    (r"^patch_embed1\.norm\.", "stem.norm."),
    (r"^patch_embed(\d)\.proj\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.conv."),
    (r"^patch_embed(\d)\.norm\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.norm."),
    (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
    (r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
    (r"\.layer_scale_([12])$", r".ls\1.gamma"),
    (r"\.attn\.proj_([12])\.", r".attn.proj\1."),
    *renames(r"\.", {"spatial_gating_unit.conv0": "attn.near", "spatial_gating_unit.conv_spatial": "attn.far"}),
    *renames(r"\.", {"spatial_gating_unit.conv1": "attn.mix"}),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The MLPs' 1x1 convolutions are linears here."""
    return {
        key: value.flatten(1) if key.endswith((".mlp.fc1.weight", ".mlp.fc2.weight")) else value
        for key, value in state_dict.items()
    }


_HALF = {"mean": IMAGENET_INCEPTION_MEAN, "std": IMAGENET_INCEPTION_STD, "crop_pct": 0.9}
_HUB = "https://huggingface.co/Visual-Attention-Network"
_FOLDER = "https://cloud.tsinghua.edu.cn/d/0100f0cea37d41ba8d08/"
_MIRROR = "https://download.openmmlab.com/mmsegmentation/v0.5/van_3rdparty"


def _in1k(size: str, top1: float) -> dict[str, Weights]:
    name = f"van_{size.lower()}_{round(top1 * 10)}"
    return {"in1k": Weights(f"{_HUB}/VAN-{size}-original/resolve/main/{name}.pth.tar", top1=top1, **_HALF)}


def _in22k(file: str, *fine_tuned: float) -> dict[str, Weights]:
    notes = (
        f"OpenMMLab's copy of {file.split('-in22k')[0].replace('-', '_')}_22k.pth in {_FOLDER}",
        "fine-tuned on ImageNet-1K, the paper reports top-1 of {} at 224 and {} at 384; neither those weights nor the "
        "recipe are published".format(*fine_tuned),
        "the class count is not stated, nor whether there is a classifier: the model takes that of the file",
    )
    return {"in22k": Weights(f"{_MIRROR}/{file}.pth", num_classes=None, notes=notes, **_HALF)}


_B4 = Weights(
    page=_FOLDER,
    top1=84.2,
    num_classes=None,
    notes=("the file is van_b4.pth; whether it holds the classifier is not stated",),
    **_HALF,
)
_MEDIUM = (64, 128, 320, 512)

register_family(
    Family(
        model=VAN,
        paper_name="Visual Attention Network",
        paper_ids="arXiv:2202.09741",
        origin_url="https://github.com/Visual-Attention-Network/VAN-Classification",
        license="apache-2.0",
        key_map=_KEYS,
        convert=_convert,
        first_conv="stem.conv",
        tiny={"dims": (16, 32, 40, 64), "depths": (1, 1, 2, 1), "mlp_ratios": (2, 2, 2, 2)},
        variants={
            "van_b0": Variant({"dims": (32, 64, 160, 256), "depths": (3, 3, 5, 2)}, _in1k("Tiny", 75.4)),
            "van_b1": Variant({"dims": _MEDIUM, "depths": (2, 2, 4, 2)}, _in1k("Small", 81.1)),
            "van_b2": Variant({"dims": _MEDIUM, "depths": (3, 3, 12, 3)}, _in1k("Base", 82.8)),
            "van_b3": Variant({"dims": _MEDIUM, "depths": (3, 5, 27, 3)}, _in1k("Large", 83.9)),
            "van_b4": Variant(
                {"dims": _MEDIUM, "depths": (3, 6, 40, 3)},
                {"in1k": _B4, **_in22k("van-b4-in22k_3rdparty_20230522-5e31cafb", 85.7, 86.6)},
            ),
            "van_b5": Variant(
                {"dims": (96, 192, 480, 768), "depths": (3, 3, 24, 3)},
                _in22k("van-b5-in22k_3rdparty_20230522-b26134d7", 86.3, 87.0),
            ),
            "van_b6": Variant(
                {"dims": (96, 192, 384, 768), "depths": (6, 6, 90, 6)},
                _in22k("van-b6-in22k_3rdparty_20230522-5e5172a3", 86.9, 87.8),
            ),
        },
    )
)
