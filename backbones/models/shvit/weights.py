"""SHViT: single-head vision transformer. timm has the models; here are the authors' files and their dense form.

Yun and Ro, CVPR 2024, arXiv 2401.16456. Three stages at strides 16 to 64; attention of one head on a slice of the
channels. Fused files (one convolution for each with its BatchNorm) fit what `timm.utils.model.reparameterize_model`
makes of timm's model. Detectors add finer levels by transposed convolutions, see `backbones.dense.necks`.

Differences from the paper: the authors' downsampling stands at the head of the next stage's blocks, which start at
number 3; the cost and accuracy of S4 are those of 256 x 256 images.
"""

from __future__ import annotations

from timm.models import SHViT

from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family

_URL = "https://github.com/ysj9909/SHViT/releases/download/v1.0"

_KEYS = (
    (r"^blocks1\.(\d+)\.", r"stages.0.blocks.\1."),
    (r"^blocks([23])\.0\.([01])\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.{m[2]}."),
    (r"^blocks([23])\.1\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.2."),
    (r"^blocks([23])\.2\.([01])\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.{int(m[2]) + 3}."),
    (r"^blocks([23])\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 3}."),
)


def _variant(name: str, top1: float, input_size: int = 224) -> Variant:
    return Variant({}, {"in1k": Weights(f"{_URL}/{name}.pth", top1=top1, input_size=input_size)})


register_family(
    Family(
        model=SHViT,
        paper_name="SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design",
        paper_ids="arXiv:2401.16456",
        origin_url="https://github.com/ysj9909/SHViT",
        license="mit",
        key_map=_KEYS,
        dense=DenseForm(norm=None),
        tiny={"embed_dim": (32, 48, 64), "partial_dim": (8, 12, 16), "depth": (1, 1, 2)},
        first_conv="patch_embed.0.c",
        classifier="head.l",
        reduction=64,
        built_by_timm=True,
        variants={
            "shvit_s1": _variant("shvit_s1", 72.8),
            "shvit_s2": _variant("shvit_s2", 75.2),
            "shvit_s3": _variant("shvit_s3", 77.4),
            "shvit_s4": _variant("shvit_s4", 79.4, input_size=256),
        },
    )
)
