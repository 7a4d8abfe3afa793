"""Weights of Swin Transformer V2 and of SimMIM's models: addresses, key map, variants.

timm's files load too (`timm/swinv2_*`): there, patch merging belongs to the stage after it, as here. A model with the
wrong `pretrained_window_sizes` loads a fine-tuned file all the same, and computes something else; the tags bring the
right ones. SimMIM's huge and giant models have no published configuration: theirs follows from their sizes.
"""

from __future__ import annotations

from backbones.models.registry import Family, Variant, Weights, register_family
from backbones.models.swin import SWIN_KEYS, move_merging
from backbones.models.swinv2.model import SwinV2

_URL = "https://github.com/SwinTransformer/storage/releases/download/v2.0.0"
_SIMMIM = "https://huggingface.co/zdaxie/SimMIM/resolve/main"

_KEYS = (
    (r"^encoder\.", ""),  # of SimMIM
    *SWIN_KEYS,
    (r"\.attn\.(?:cpb|rpe)_mlp\.0\.", ".attn.rel_pos.fc1."),
    (r"\.attn\.(?:cpb|rpe)_mlp\.2\.", ".attn.rel_pos.fc2."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def _crop(side: int) -> dict:
    """A centre crop of the image resized to 256 / 224 of the side; at 384, the whole image squashed."""
    return {"crop_pct": 1.0, "crop_mode": "squash"} if side == 384 else {"crop_pct": 0.875}


def _from_scratch(name: str, window: int, top1: float) -> dict[str, Weights]:
    file = f"swinv2_{name}_patch4_window{window}_256"
    return {"in1k": Weights(f"{_URL}/{file}.pth", top1=top1, input_size=256, **_crop(256))}


def _transfer(name: str, side: int, top1: float) -> dict[str, Weights]:
    """Pre-trained on ImageNet-22K with windows of 12, fine-tuned with others."""
    window = side // 16
    return {
        f"in22k_ft_in1k_{side}": Weights(
            f"{_URL}/swinv2_{name}_patch4_window12to{window}_192to{side}_22kto1k_ft.pth",
            top1=top1,
            input_size=side,
            args={"img_size": side, "window_size": window, "pretrained_window_sizes": (12, 12, 12, 6)},
            **_crop(side),
        )
    }


def _in22k(name: str, top1_256: float, top1_384: float) -> dict[str, Weights]:
    file = f"{_URL}/swinv2_{name}_patch4_window12_192_22k.pth"
    return {
        "in22k": Weights(file, input_size=192, num_classes=21841, **_crop(192)),
        **_transfer(name, 256, top1_256),
        **_transfer(name, 384, top1_384),
    }


def _simmim(name: str, in1k: float, in22k: float | None = None) -> dict[str, Weights]:
    """500,000 iterations of masked images on ImageNet-1K or -22K, and their fine-tuning at 224 with windows of 14."""
    less = ("1kper10", "1kper20", "1kper50")[{"huge": 1, "giant": 2}.get(name, 0) :]
    others = (
        f"files of 125k and 250k iterations, and of parts of ImageNet-1K ({', '.join(less)}), are beside this one",
    )
    out = {}
    for data, top1 in (("1k", in1k), ("22k", in22k)):
        if top1 is None:
            continue
        run = f"swinv2_{name}_{data}_500k.pth"
        headless = "without classifier: it starts at random"
        out[f"simmim_{data}"] = Weights(
            f"{_SIMMIM}/simmim_swinv2_pretrain_models/{run}",
            input_size=192,
            num_classes=None,
            notes=(headless, *others),
        )
        out[f"simmim_{data}_ft_in1k"] = Weights(
            f"{_SIMMIM}/simmim_swinv2_finetune_models/finetune_{run}",
            top1=top1,
            args={"img_size": 224, "window_size": 14, "pretrained_window_sizes": (12, 12, 12, 6)},
            notes=others,
        )
    return out


_DEEP = (2, 2, 18, 2)


def _variant(dim: int, window: int, weights: dict[str, Weights], depths: tuple[int, ...] = _DEEP) -> Variant:
    heads = tuple(dim // 32 * 2**i for i in range(4))
    side = 192 if window == 12 else 256
    args = {"dim": dim, "depths": depths, "num_heads": heads, "window_size": window, "img_size": side}
    return Variant(args, weights)


register_family(
    Family(
        model=SwinV2,
        paper_name="Swin Transformer V2: Scaling Up Capacity and Resolution",
        paper_ids="arXiv:2111.09883",
        origin_url="https://github.com/microsoft/Swin-Transformer",
        license="mit",
        key_map=_KEYS,
        drop_keys=r"relative_(coords_table|position_index)$|attn_mask$|^(encoder\.)?mask_token$|^decoder\.",
        convert=move_merging,
        sized=True,
        tiny={"dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 4, "img_size": 64},
        variants={
            "swinv2_t_window8": _variant(96, 8, _from_scratch("tiny", 8, 81.8), (2, 2, 6, 2)),
            "swinv2_t_window16": _variant(96, 16, _from_scratch("tiny", 16, 82.8), (2, 2, 6, 2)),
            "swinv2_s_window8": _variant(96, 8, _from_scratch("small", 8, 83.7)),
            "swinv2_s_window16": _variant(96, 16, _from_scratch("small", 16, 84.1)),
            "swinv2_s_window12": _variant(96, 12, _simmim("small", 84.08)),
            "swinv2_b_window8": _variant(128, 8, _from_scratch("base", 8, 84.2)),
            "swinv2_b_window16": _variant(128, 16, _from_scratch("base", 16, 84.6)),
            "swinv2_b_window12": _variant(128, 12, {**_in22k("base", 86.2, 87.1), **_simmim("base", 85.04, 85.11)}),
            "swinv2_l_window12": _variant(192, 12, {**_in22k("large", 86.9, 87.6), **_simmim("large", 85.91, 85.81)}),
            "swinv2_h_window12": _variant(352, 12, _simmim("huge", 86.34, 86.27)),
            "swinv2_g_window12": _variant(448, 12, _simmim("giant", 86.46, 86.53)),
        },
    )
)
