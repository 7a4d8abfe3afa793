"""What is special to STViT: which stages attend among super tokens, and what its files name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.layers.attention.super_token import SuperTokenAttention
from backbones.models import family_of, list_models

from .zoo import full_size, tiny

MODELS = list_models("stvit_*")


@pytest.mark.parametrize("name", MODELS)
def test_published_form(name):
    model = full_size(name)
    for stage, cell in zip(model.stages, (8, 4, None, None), strict=True):
        for block in stage.blocks:
            assert isinstance(block.norm2, nn.BatchNorm2d) and block.norm1.eps == 1e-6
            assert isinstance(block.attn, SuperTokenAttention) == (cell is not None)
            if cell is not None:
                assert block.attn.cell_size == (cell, cell) and block.attn.num_iters == 1
    scaled = {i for i, stage in enumerate(model.stages) if not isinstance(stage.blocks[0].ls1, nn.Identity)}
    assert scaled == (set() if name == "stvit_s" else {2, 3})


def test_layer_scales_start_small_and_are_decayed():
    block = tiny("stvit_b").stages[3].blocks[0]
    for scale in (block.ls1, block.ls2):
        assert torch.equal(scale.gamma, torch.full((1, 64, 1, 1), 1e-6))


def _authors(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict of ours with the attention as the authors' files hold it: head by head, as 1x1 convolutions."""
    out = dict(state)
    for name, module in model.named_modules():
        if name.endswith(".attn"):
            for kind in ("weight", "bias"):
                parts = state[f"{name}.qkv.{kind}"].chunk(3)
                heads = zip(*(part.chunk(module.num_heads) for part in parts), strict=True)
                out[f"{name}.qkv.{kind}"] = torch.cat([part for head in heads for part in head])
            for layer in ("qkv", "proj"):
                out[f"{name}.{layer}.weight"] = out[f"{name}.{layer}.weight"][..., None, None]
    return out


@pytest.mark.parametrize("layout", ["ours", "authors"])
def test_conversion(layout):
    model = tiny("stvit_s")
    own = model.state_dict()
    given = own if layout == "ours" else _authors(own, model)
    converted = family_of("stvit_s").convert_checkpoint(given, model)
    assert converted.keys() == own.keys() and all(torch.equal(converted[key], own[key]) for key in own)
