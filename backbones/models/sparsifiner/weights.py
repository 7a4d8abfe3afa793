"""Variants of Sparsifiner and the key map of the authors' training files; no weights are published."""

from __future__ import annotations

import torch
from torch import nn

from backbones.layers.tokens import resize_table
from backbones.models.isotropic import TOKEN_KEYS, resize_position_embedding
from backbones.models.registry import Family, Variant, Weights, register_family
from backbones.models.sparsifiner.model import Sparsifiner

_KEYS = (
    (r"^patch_embed\.(conv\d|bn\d)\.", r"stem.\1."),  # LV-ViT
    (r"^patch_embed\.proj\.", "stem.proj."),
    (r"^aux_head\.", "head.aux_fc."),
    *TOKEN_KEYS[:2],
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Files of DeiT and LV-ViT have no predictors, whose own start stays; tables of another size are resized."""
    own = model.state_dict()
    if "stem.conv1.bias" in own:  # patches of the image itself
        names = {f"stem.proj.{kind}": f"stem.conv1.{kind}" for kind in ("weight", "bias")}
        state_dict = {names.get(key, key): value for key, value in state_dict.items()}
    predictors = {key: value for key, value in own.items() if ".mask_predictor." in key}
    if not any(".mask_predictor." in key for key in state_dict):
        state_dict.update(predictors)
    for key in [key for key in state_dict if key.endswith(".proj_back_n") and key not in own]:
        # Shared projections are in the file twice; loading it, the authors' code would keep the latter.
        state_dict[key.replace(".proj_back_n", ".proj_n")] = state_dict.pop(key)
    for key, value in predictors.items():
        table = state_dict.get(key)
        if key.endswith("_n") and table is not None and table.shape[0] != value.shape[0]:
            predictor = model.get_submodule(key.rpartition(".")[0])
            side = round((table.shape[0] - 1) ** 0.5)
            resized = resize_table(table[None], (side, side), predictor.grid_size, 1, "bilinear")[0]
            if key.endswith(".proj_n"):
                resized[1:] *= (table.shape[0] - 1) / (len(resized) - 1)
            state_dict[key] = resized
    return resize_position_embedding(state_dict, model)


_NOTE = "the authors publish no weights; training starts from those of {}"
_DEIT = "https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth"
_LVVIT = "https://github.com/zihangJiang/TokenLabeling/releases/download/1.0/lvvit_s-26M-224-83.3.pth.tar"

register_family(
    Family(
        model=Sparsifiner,
        paper_name="Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers",
        paper_ids="arXiv:2303.13755",
        origin_url="https://github.com/lim142857/Sparsifiner",
        license="mit",
        key_map=_KEYS,
        convert=_convert,
        sized=True,
        reduction=16,
        # One form for both variants, without the auxiliary head, which adds to the classifier; and with a head that the
        # last predictor matters to: the class token attends to all patches.
        tiny={
            "dim": 32,
            "depth": 4,
            "num_heads": 2,
            "mlp_ratio": 2.0,
            "qkv_bias": False,
            "norm_eps": 1e-5,
            "skip_lam": 2.0,
            "conv_stem": True,
            "aux_head": False,
            "global_pool": "avg",
            "img_size": 64,
            "num_basis": 6,
            "predictor_dim": 8,
            "basis_coef_topk": 3,
        },
        variants={
            "sparsifiner_s": Variant({"dim": 384, "num_heads": 6}, {"in1k": Weights(notes=(_NOTE.format(_DEIT),))}),
            "sparsifiner_lvvit_s": Variant(
                {
                    "dim": 384,
                    "depth": 16,
                    "num_heads": 6,
                    "mlp_ratio": 3.0,
                    "qkv_bias": False,
                    "norm_eps": 1e-5,
                    "skip_lam": 2.0,
                    "conv_stem": True,
                    "aux_head": True,
                },
                {"in1k": Weights(notes=(_NOTE.format(_LVVIT),))},
            ),
        },
    )
)
