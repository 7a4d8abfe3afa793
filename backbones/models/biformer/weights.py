"""Published weights of BiFormer: addresses, key map, variants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from backbones.models.biformer.model import BiFormer
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Split the routed attention's packed projection, and turn the nchw model's 1x1 convolutions into linears.

    Raises:
        ValueError: The checkpoint is the nchw model's and the model is not, or the other way round; their keys are
            the same here, what they compute is not.
    """
    out = {}
    for key, value in state_dict.items():
        if key.endswith(".attn.packed.weight") and (value.ndim == 4) != model._default_init:
            form = (
                ("biformer_stl_nchw", "another BiFormer")
                if value.ndim == 4
                else ("another BiFormer", "biformer_stl_nchw")
            )
            raise ValueError("the checkpoint is that of {} and the model is {}".format(*form))
        if ".attn.packed." in key:
            q, k, v = value.flatten(1).chunk(3) if value.ndim > 1 else value.chunk(3)
            out[key.replace(".packed.", ".q.")] = q
            out[key.replace(".packed.", ".kv.")] = torch.cat((k, v))
        elif value.ndim == 4 and value.shape[2:] == (1, 1) and (".attn." in key or ".mlp." in key):
            out[key] = value.flatten(1)
        else:
            out[key] = value
    return out


_KEYS = (
    (r"^downsample_layers\.0\.0\.", "stem.conv1."),
    (r"^downsample_layers\.0\.1\.", "stem.norm1."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.attn\.(?:qkv\.qkv|qkv_linear)\.", ".attn.packed."),
    (r"\.attn\.(?:wo|output_linear)\.", ".attn.proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.[23]\.", ".mlp.fc2."),
)
_CONV_KEYS = (
    (r"^downsample_layers\.0\.3\.", "stem.conv2."),
    (r"^downsample_layers\.0\.4\.", "stem.norm2."),
    (r"^downsample_layers\.(\d)\.0\.", r"stages.\1.downsample.conv."),
    (r"^downsample_layers\.(\d)\.1\.", r"stages.\1.downsample.norm."),
)
_PATCH_KEYS = (
    (r"^downsample_layers\.(\d)\.0\.", r"stages.\1.downsample.norm."),
    (r"^downsample_layers\.(\d)\.1\.", r"stages.\1.downsample.conv."),
)

_COMMON = {
    "model": BiFormer,
    "paper_name": "BiFormer: Vision Transformer with Bi-Level Routing Attention",
    "paper_ids": "arXiv:2303.08810",
    "origin_url": "https://github.com/rayleizhu/BiFormer",
    "license": "mit",
    "dense": DenseForm(keys=r"^extra_norms\.(\d)\.", eps=1e-6),
    "convert": _convert,
    "tiny": {"dims": (32, 32, 64, 64), "depths": (1, 1, 2, 1), "n_win": 4, "topks": (1, 2, 4, None)},
}


def _variant(share: str, top1: float, dims: Sequence[int], depths: Sequence[int], **args) -> Variant:
    weights = Weights(
        page="https://1drv.ms/u/s!AkBbczdRlZvChGsXFqAA-PVnA-R8?e=IPlOCG",
        top1=top1,
        notes=(
            f"the file's own OneDrive share {share} was reported to answer 'share id was malformed'",
            "the file is the training script's best.pth; its entry 'model' holds the published weights",
        ),
    )
    return Variant({"dims": dims, "depths": depths, **args}, {"in1k": weights})


_NARROW, _WIDE = (64, 128, 256, 512), (96, 192, 384, 768)
_STL = {"layout": "patch", "mlp_ratio": 4.0}

register_family(
    Family(
        **_COMMON,
        key_map=(*_KEYS, *_CONV_KEYS),
        variants={
            "biformer_t": _variant("s!AkBbczdRlZvChHEOoGkgwgQzEDlM", 81.4, _NARROW, (2, 2, 8, 2)),
            "biformer_s": _variant("s!AkBbczdRlZvChHDyM-x9KWRBZ832", 83.8, _NARROW, (4, 4, 18, 4)),
            "biformer_b": _variant("s!AkBbczdRlZvChHI_XPhoadjaNxtO", 84.3, _WIDE, (4, 4, 18, 4)),
        },
    )
)

register_family(
    Family(
        **_COMMON,
        key_map=(*_KEYS, *_PATCH_KEYS),
        variants={
            "biformer_stl": _variant("s!AkBbczdRlZvChSf-m7ujkvx9lIQ1", 82.7, _WIDE, (2, 2, 6, 2), **_STL),
            "biformer_stl_nchw": _variant(
                "s!AkBbczdRlZvChWYrKbWbMgqd2Ai0", 82.7, _WIDE, (2, 2, 6, 2), **_STL, pad="qkv", global_lepe="v"
            ),
        },
    )
)
