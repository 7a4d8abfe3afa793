"""Published weights of ConViT: addresses, key map, variants."""

from __future__ import annotations

from backbones.models.convit.model import ConViT
from backbones.models.isotropic import TOKEN_KEYS, resize_position_embedding
from backbones.models.registry import Family, Variant, Weights, register_family

_URL = "https://dl.fbaipublicfiles.com/convit"
_LICENSE = "the licence file says Apache 2.0 for most of the repository, the headers of the models' files CC BY-NC 4.0"
_UNPUBLISHED = "the authors publish no file of this size"


def _variant(heads: int, dim: int, top1: float, name: str | None = None) -> Variant:
    if name is None:
        weights = Weights(top1=top1, notes=(_UNPUBLISHED,))
    else:
        weights = Weights(f"{_URL}/{name}.pth", top1=top1, notes=(_LICENSE,))
    return Variant({"dim": dim, "num_heads": heads}, {"in1k": weights})


register_family(
    Family(
        model=ConViT,
        paper_name="ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases",
        paper_ids="arXiv:2103.10697",
        origin_url="https://github.com/facebookresearch/convit",
        license="apache-2.0",
        key_map=TOKEN_KEYS,
        convert=resize_position_embedding,
        sized=True,
        reduction=16,
        tiny={"dim": 32, "depth": 4, "num_heads": 4, "local_depth": 2, "img_size": 64},
        variants={
            "convit_t": _variant(4, 192, 73.1, "convit_tiny"),
            "convit_s": _variant(9, 432, 81.3, "convit_small"),
            "convit_b": _variant(16, 768, 82.4, "convit_base"),
            "convit_t_plus": _variant(4, 256, 76.7),
            "convit_s_plus": _variant(9, 576, 82.2),
            "convit_b_plus": _variant(16, 1024, 82.5),
        },
    )
)
