"""Variants of IA-RED2 and the key map of the authors' interpretation tool."""

from __future__ import annotations

import re

import torch
from torch import nn

from backbones.models.iared2.model import IARED2
from backbones.models.isotropic import TOKEN_KEYS, resize_position_embedding
from backbones.models.registry import Family, Variant, Weights, register_family

_KEYS = (
    (r"^groups\.(\d+)\.agent\.", lambda m: f"blocks.{4 * int(m[1])}.interpreter."),
    (r"^groups\.(\d+)\.block_list\.(\d+)\.", lambda m: f"blocks.{4 * int(m[1]) + int(m[2])}."),
    *TOKEN_KEYS,
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Files of DeiT have no interpreters: the model's own stay."""
    if not any(".interpreter." in key for key in state_dict):
        own = model.state_dict()
        state_dict.update({key: value for key, value in own.items() if re.search(r"\.interpreter\.", key)})
    return resize_position_embedding(state_dict, model)


_PAGE = "https://people.csail.mit.edu/bpan/ia-red/"

register_family(
    Family(
        model=IARED2,
        paper_name="IA-RED^2: Interpretability-Aware Redundancy Reduction for Vision Transformers",
        paper_ids="arXiv:2106.12620",
        origin_url=_PAGE,
        license="unknown",
        key_map=_KEYS,
        convert=_convert,
        sized=True,
        reduction=16,
        tiny={
            "dim": 24,
            "mlp_ratio": 2.0,
            "depth": 4,
            "num_heads": 2,
            "groups": 2,
            "interpreter_heads": 2,
            "img_size": 64,
        },
        variants={
            "iared2_s": Variant(
                {"dim": 384, "num_heads": 6},
                {"in1k": Weights(page=_PAGE, top1=79.1, notes=("a link on the page of the interpretation tool",))},
            ),
            "iared2_b": Variant(
                {"dim": 768, "num_heads": 12},
                {
                    "in1k": Weights(notes=("not by the authors, and no file is published",)),
                },
            ),
        },
    )
)
