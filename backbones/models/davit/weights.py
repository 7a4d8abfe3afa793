"""Published weights of DaViT: addresses, key map, variants."""

from __future__ import annotations

from backbones.models.davit.model import DaViT
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames

# The authors' names, and timm's, which hold pairs of blocks in one level more than ours.
_KEYS = (
    (r"^patch_embeds\.0\.", "stem."),
    (r"^patch_embeds\.(\d)\.", r"stages.\1.downsample."),
    *renames(r"^stem\.|\.downsample\.", {"proj": "conv"}),
    (
        r"^(?:main_blocks\.(\d)|stages\.(\d)\.blocks)\.(\d+)\.([01])\.",
        lambda m: f"stages.{m[1] or m[2]}.blocks.{2 * int(m[3]) + int(m[4])}.",
    ),
    (r"\.cpe(?:\.([01])|([12]))\.proj\.", lambda m: f".cpe{m[2] or int(m[1]) + 1}."),
    (r"^norms\.", "head.norm."),
)

_DRIVE = "https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk"


def _in1k(name: str, path: str, top1: float) -> dict[str, Weights]:
    return {
        "in1k": Weights(
            hf_hub_id=f"timm/davit_{name}.msft_in1k",
            page=f"{_DRIVE}/{path}",
            crop_pct=0.9,
            top1=top1,
            notes=(f"timm's copy; the authors' file, for browsers only, is at {_DRIVE}/{path}",),
        )
    }


def _davit(dim: int, depths: tuple[int, ...], weights: dict[str, Weights], **args) -> Variant:
    return Variant({"dims": (dim, 2 * dim, 4 * dim, 8 * dim), "depths": depths, **args}, weights)


register_family(
    Family(
        model=DaViT,
        paper_name="DaViT: Dual Attention Vision Transformers",
        paper_ids="arXiv:2204.03645",
        origin_url="https://github.com/dingmyu/davit",
        license="mit",
        key_map=_KEYS,
        dense=DenseForm(keys=r"^norm(\d)\."),
        first_conv="stem.conv",
        tiny={"dims": (32, 32, 64, 64), "depths": (1, 1, 2, 1), "window_size": 4},
        variants={
            "davit_t": _davit(
                96, (1, 1, 3, 1), _in1k("tiny", "EcJYlVYP9y5FsDbMP-nwjtABgLmdrNGZBxgR5--Kg3MZ7Q?e=v9OrXB", 82.8)
            ),
            "davit_s": _davit(
                96, (1, 1, 9, 1), _in1k("small", "ERN_Gzm8oKdIvO01r0X2cscB_owuRAnnQPNGJEVGP23xHQ?e=MVW3ZO", 84.2)
            ),
            "davit_b": _davit(
                128, (1, 1, 9, 1), _in1k("base", "Ea8kCpdM949CvTM0w7DWbGwBxxiACMSik4zx-emrNY0uKQ?e=aEjC7u", 84.6)
            ),
            "davit_l": _davit(
                192,
                (1, 1, 9, 1),
                {
                    "in1k_384": Weights(
                        input_size=384, crop_pct=1.0, notes=("the authors publish neither a file nor an accuracy",)
                    )
                },
                window_size=12,
            ),
        },
    )
)
