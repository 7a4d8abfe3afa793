"""What is special to BiFormer."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.attention.routing import BiLevelRoutingAttention
from backbones.models import family_of, list_models

from .zoo import image, tiny

MODELS = list_models("biformer*")


@pytest.mark.parametrize("name", MODELS)
def test_published_attention(name):
    model = timm.create_model(name, device="meta")
    for i, stage in enumerate(model.stages):
        for block in stage.blocks:
            dim = model.feature_info[i]["num_chs"]
            if i == 3:
                assert isinstance(block.attn, GlobalAttention2d) and block.attn.num_heads == 8
                assert block.attn.lepe_input == ("v" if name == "biformer_stl_nchw" else "x")
            else:
                assert isinstance(block.attn, BiLevelRoutingAttention)
                assert (block.attn.n_win, block.attn.topk) == (7, (1, 4, 16)[i])
                assert block.attn.num_heads == dim // 32 and block.attn.scale == dim**-0.5


@pytest.mark.parametrize("name", MODELS)
def test_no_weight_depends_on_n_win(name):
    model, other = tiny(name), tiny(name, seed=1, n_win=5)
    other.load_state_dict(model.state_dict())
    x = image(150, 90)
    assert other(x).isfinite().all() and not torch.equal(other(x), model(x))


def test_init_of_linears():
    torch.manual_seed(0)
    for name, std in (("biformer_stl", 0.02), ("biformer_stl_nchw", (1 / (3 * 64)) ** 0.5)):
        model = tiny(name)
        weight = model.stages[2].blocks[0].mlp.fc1.weight
        assert weight.std().item() == pytest.approx(std, rel=0.05)
        assert bool(model.stages[2].blocks[0].mlp.fc1.bias.abs().max() > 0) == (name == "biformer_stl_nchw")
        assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert all(isinstance(m, nn.Linear) for m in (model.head.fc, model.stages[0].blocks[0].attn.kv))


def test_own_keys_pass_the_conversion_unchanged():
    for name in MODELS:
        model = tiny(name)
        own = model.state_dict()
        converted = family_of(name).convert_checkpoint(own, model)
        assert converted.keys() == own.keys() and all(torch.equal(converted[k], own[k]) for k in own)


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="layout must be"):
        timm.create_model("biformer_t", layout="swin")
    with pytest.raises(ValueError, match="multiples of 32"):
        timm.create_model("biformer_t", dims=(48, 128, 256, 512))


def _authors_nchw_layout(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict of ours under the names and shapes of the authors' nchw checkpoint (section 5 of their layout)."""
    out = {}
    own = model.state_dict()
    for key, value in own.items():
        if key.endswith((".fc1.weight", ".fc2.weight", ".proj.weight")) or ".attn.qkv." in key:
            value = value[:, :, None, None]
        if ".attn.q." in key:
            value = torch.cat((value, own[key.replace(".q.", ".kv.")]))
            value = value[:, :, None, None] if value.ndim == 2 else value
        elif ".attn.kv." in key:
            continue
        for ours, theirs in (
            ("stem.conv1.", "downsample_layers.0.0."),
            ("stem.norm1.", "downsample_layers.0.1."),
            (".attn.q.", ".attn.qkv_linear."),
            (".mlp.fc1.", ".mlp.0."),
            (".mlp.fc2.", ".mlp.2."),
            ("head.fc.", "head."),
        ):
            key = key.replace(ours, theirs)
        if ".downsample." in key:
            part = "0" if ".norm." in key else "1"
            key = f"downsample_layers.{key.split('.')[1]}.{part}.{key.rpartition('.')[2]}"
        if not key.startswith("stages.3.") and ".attn.proj." in key:
            key = key.replace(".attn.proj.", ".attn.output_linear.")
        out[key] = value
    return out


def test_nchw_checkpoint_keys():
    family = family_of("biformer_stl_nchw")
    model = timm.create_model("biformer_stl_nchw", **family.tiny, num_classes=3)
    authors = _authors_nchw_layout(model)
    assert "stages.0.blocks.0.attn.qkv_linear.weight" in authors and "downsample_layers.1.1.weight" in authors
    converted = family.convert_checkpoint({"model": authors}, model)
    own = model.state_dict()
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)
