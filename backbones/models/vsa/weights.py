"""Published weights of VSA: addresses, key map, variants.

A file of a detector was trained with other conventions than a classifier's (`detector=True`, which `DenseBackbone`
sets), though its keys and shapes are the same.
"""

from __future__ import annotations

import torch
from torch import nn

from backbones.layers.attention.varied_window import VariedSizeWindowAttention
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family, renames
from backbones.models.swin import SWIN_KEYS, convert_swin
from backbones.models.vsa.model import SwinVSA, ViTAEv2VSA

_KEYS = (
    (r"^layers\.0\.RC\.", "stem."),
    (r"^layers\.(\d)\.RC\.", r"stages.\1.downsample."),
    (r"^layers\.(\d)\.NC\.", r"stages.\1.blocks."),
    (r"\.PRM\.convs\.(\d)\.0\.", r".prm.convs.\1."),
    (r"^(stem|stages\.\d\.(?:downsample|blocks\.\d+))\.pos\.", r"\1.pos_embed."),
    *renames(r"\.", {"PCM.0": "pcm.conv1", "PCM.1": "pcm.norm1", "PCM.3": "pcm.conv2", "PCM.4": "pcm.norm2"}),
    *renames(r"\.", {"PCM.6": "pcm.conv3"}),
    (r"\.attn\.relative_position_bias_table$", ".attn.rel_pos.relative_position_bias_table"),
)

_SWIN_KEYS = (
    *SWIN_KEYS,
    (r"^(stages\.\d\.blocks\.\d+)\.pos\.", r"\1.pos_embed."),
    (r"\.attn\.transform\.2\.", ".attn.place."),
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Queries have a projection of their own here, and all that a window chooses comes from one layer.

    1x1 convolutions are linears; bias tables and patch merging are as in Swin's files.
    """
    out = convert_swin(dict(state_dict), model)
    for name, module in model.named_modules():
        if not isinstance(module, VariedSizeWindowAttention):
            continue
        for kind in ("weight", "bias"):
            chosen = [out.pop(f"{name}.sampling_{what}.2.{kind}", None) for what in ("offsets", "scales")]
            if all(part is not None for part in chosen):
                parts = [part.unflatten(0, (module.num_heads, 2)) for part in chosen]
                out[f"{name}.place.{kind}"] = torch.cat(parts, 1).flatten(0, 1)
            if f"{name}.qkv.{kind}" in out:
                q, k, v = out.pop(f"{name}.qkv.{kind}").chunk(3)
                out[f"{name}.q.{kind}"], out[f"{name}.kv.{kind}"] = q, torch.cat((k, v))
    linears = (".q.weight", ".kv.weight", ".place.weight", ".proj.weight")
    return {key: value.flatten(1) if key.endswith(linears) else value for key, value in out.items()}


_COMMON = {
    "paper_name": "VSA: Learning Varied-Size Window Attention in Vision Transformers",
    "paper_ids": "arXiv:2204.08446",
    "drop_keys": r"\.attn\.relative_position_index$",
    "convert": _convert,
}

_SHARE = "https://1drv.ms/u/s!"
_AVERAGE = "of the file's two sets of weights the moving average is taken"
_ANNOUNCED = "announced, not published"
_UNPUBLISHED = "the authors publish neither a file nor an accuracy"


def _vitae(dim: int, depths: tuple[int, ...], weights: dict[str, Weights], **args) -> Variant:
    return Variant(
        {
            "dims": tuple(dim * 2**i for i in range(4)),
            "embed_dims": (dim, dim, 2 * dim, 4 * dim),
            "depths": depths,
            "num_heads": tuple(dim // 32 * 2**i for i in range(4)),
            "reduction_heads": tuple(dim // 32 * 2**i for i in range(4)),
            "wide_pcm": True,
            **args,
        },
        weights,
    )


def _weights(file: str | None = None, *notes: str, top1: float | None = None, side: int = 224) -> Weights:
    page = None if file is None else _SHARE + file
    return Weights(page=page, top1=top1, input_size=side, crop_pct=0.9, notes=notes)


register_family(
    Family(
        **_COMMON,
        model=ViTAEv2VSA,
        origin_url="https://github.com/ViTAE-Transformer/ViTAE-VSA",
        license="unknown",
        key_map=_KEYS,
        averaged=True,
        dense=DenseForm(norm=None, args={"detector": True}),
        first_conv=("stem.prm.convs.0", "stem.prm.convs.1", "stem.prm.convs.2", "stem.prm.convs.3", "stem.pcm.conv1"),
        tiny={
            "dims": (16, 32, 32, 64),
            "embed_dims": (8, 8, 16, 16),
            "depths": (1, 1, 2, 1),
            "num_heads": (1, 2, 2, 4),
            "reduction_heads": (1, 2, 2, 2),
            "groups": (1, 4, 8, 16),
            "reduction_groups": (1, 4, 8, 16),
            "wide_pcm": False,
            "window_size": 7,
            "mlp_ratio": 2.0,
        },
        variants={
            "vsa_vitaev2_s": _vitae(
                64,
                (2, 2, 8, 2),
                {"in1k": _weights("AimBgYV7JjTlgcgB0Xlyc3U4WO11AQ?e=AGRBDl", _AVERAGE, top1=82.7)},
                reduction_heads=(2, 2, 4, 8),
                wide_pcm=False,
            ),
            "vsa_vitaev2_s_widepcm": _vitae(64, (2, 2, 8, 2), {"in1k": _weights(None, _UNPUBLISHED)}),
            "vsa_vitaev2_48m": _vitae(
                96,
                (2, 2, 11, 2),
                {
                    "in1k": _weights("AimBgYV7JjTlgcgCOt1UwhNQRfO0bw?e=rtEQJV", _AVERAGE, top1=83.9),
                    "in22k_ft_in1k": _weights(None, _ANNOUNCED, top1=84.9),
                },
            ),
            "vsa_vitaev2_b": _vitae(128, (2, 2, 12, 2), {"in22k_ft_in1k": _weights(None, _ANNOUNCED, top1=86.2)}),
            "vsa_vitaev2_b_window12": _vitae(
                128, (2, 2, 12, 2), {"in1k_384": _weights(None, _UNPUBLISHED, side=384)}, window_size=12
            ),
        },
    )
)


def _swin(dim: int, depths: tuple[int, ...], top1: float | None) -> Variant:
    heads = tuple(dim // 32 * 2**i for i in range(4))
    notes = (_UNPUBLISHED,) if top1 is None else ("the authors publish no file",)
    return Variant({"dim": dim, "depths": depths, "num_heads": heads}, {"in1k": Weights(top1=top1, notes=notes)})


register_family(
    Family(
        **_COMMON,
        model=SwinVSA,
        origin_url="https://github.com/ViTAE-Transformer/QFormer",
        license="mit",
        key_map=_SWIN_KEYS,
        dense=DenseForm(keys=r"^norm(\d)\."),
        tiny={"dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 4, "mlp_ratio": 2.0},
        variants={
            "vsa_swin_t": _swin(96, (2, 2, 6, 2), 82.24),
            "vsa_swin_s": _swin(96, (2, 2, 18, 2), 83.6),
            "vsa_swin_b": _swin(128, (2, 2, 18, 2), None),
        },
    )
)
