"""Published weights of L2ViT: addresses, key map, variants."""

from __future__ import annotations

from typing import Any

from backbones.models.l2vit.model import L2ViT
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family

_KEYS = (
    (r"^downsample_layers\.0\.proj\.proj\.([03])\.", lambda m: f"stem.conv{int(m[1]) // 3 + 1}."),
    (r"^downsample_layers\.0\.proj\.proj\.([14])\.", lambda m: f"stem.norm{int(m[1]) // 3 + 1}."),
    (r"^downsample_layers\.0\.norm\.", "stem.norm3."),
    (r"^downsample_layers\.(\d)\.proj\.", r"stages.\1.downsample.conv."),
    (r"^downsample_layers\.(\d)\.norm\.", r"stages.\1.downsample.norm."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.cpe\.(\d)\.proj\.", lambda m: f".pos_embed{int(m[1]) + 1}."),
    (r"\.local_mp\.bn\.", ".local.norm."),
    (r"\.local_mp\.", ".local."),
)


def _file(name: str, **kwargs: Any) -> Weights:
    return Weights(url=f"https://github.com/ChuanyangZheng/L2ViT/releases/download/v1.0/L2ViT-{name}.pth", **kwargs)


_BASE = {"dims": (128, 256, 512, 1024), "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
_ORDER = "the order of its classes is the authors' own, unlike that of other ImageNet-22K files"

register_family(
    Family(
        model=L2ViT,
        paper_name="The Linear Attention Resurrection in Vision Transformer",
        paper_ids="arXiv:2501.16182",
        origin_url="https://github.com/ChuanyangZheng/L2ViT",
        license="mit",
        key_map=_KEYS,
        dense=DenseForm(keys=r"^norm(\d)\."),
        tiny={"dims": (16, 32, 32, 64), "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4), "mlp_ratio": 2.0},
        variants={
            "l2vit_t": Variant({}, {"in1k": _file("Tiny-checkpoint-best-ema", top1=83.1)}),
            "l2vit_s": Variant({"depths": (2, 2, 18, 2)}, {"in1k": _file("Small-checkpoint-best-ema", top1=84.1)}),
            "l2vit_b": Variant(
                _BASE,
                {
                    "in1k": _file("Base-checkpoint-best-ema", top1=84.4),
                    "in22k": _file("Base-22k-pretrain-checkpoint-best", num_classes=21841, notes=(_ORDER,)),
                    "in22k_ft_in1k": _file("Base-22k21k-finetune-224-checkpoint-best", top1=86.0),
                    "in22k_ft_in1k_384": _file(
                        "Base-22k21k-finetune-384-checkpoint-best",
                        top1=87.0,
                        input_size=384,
                        crop_pct=1.0,
                        crop_mode="squash",
                        args={"window_size": 12},
                    ),
                },
            ),
        },
    )
)
