"""What is special to RAVLT and MAViT: which stages attend linearly, layer scales and heads, and one layout for both."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.layers.attention.linear_attention import (
    GatedRotaryAttention,
    MagnitudeAwareLinearAttention,
    RankAugmentedLinearAttention,
)
from backbones.models import family_of, list_models
from backbones.models.ravlt import RAVLT

from .zoo import full_size, image, tiny

LINEAR = {"ravlt": RankAugmentedLinearAttention, "mavit": MagnitudeAwareLinearAttention}
SCALES = {"t": (1, 1, 1, 1), "s": (1, 1, 1, 1), "b": (1, 1, 1e-6, 1e-6), "l": (1e-6, 1e-6, 1e-6, 1e-6)}
HEADS = {"ravlt": (1024, 1024, 1024, 1024), "mavit": (2048, 2048, 2048, 2560)}
MODELS = list_models("ravlt_*") + list_models("mavit_*")


@pytest.mark.parametrize("name", MODELS)
def test_published_form(name):
    family, size = name.split("_")
    model = full_size(name)
    mixers = (LINEAR[family], LINEAR[family], GatedRotaryAttention, GatedRotaryAttention)
    for stage, mixer in zip(model.stages, mixers, strict=True):
        for block in stage.blocks:
            assert type(block.attn) is mixer and block.attn.lepe.kernel_size == (5, 5)
            assert block.norm1.eps == block.norm2.eps == 1e-6
            assert block.mlp.fc1.out_channels == int(3.5 * block.mlp.fc1.in_channels)
    assert model.head_hidden_size == HEADS[family]["tsbl".index(size)]
    assert isinstance(model.head.act, nn.SiLU)


@pytest.mark.parametrize("size", SCALES)
def test_layer_scales_start_as_published_and_are_decayed(size):
    args = family_of("ravlt_t").variants[f"ravlt_{size}"].args
    model = tiny("ravlt_t", layer_scales=args.get("layer_scales", (1.0, 1.0, 1.0, 1.0)))
    for stage, value in zip(model.stages, SCALES[size], strict=True):
        for scale in (stage.blocks[0].ls1, stage.blocks[0].ls2):
            assert torch.equal(scale.gamma, torch.full_like(scale.gamma, value)) and scale.gamma.ndim == 4


def test_the_attention_is_what_tells_the_families_apart():
    """A file of one loads into the other, which computes something else."""
    ravlt, mavit = tiny("ravlt_t"), tiny("mavit_t")
    mavit.load_state_dict(ravlt.state_dict())
    x = image(32, 32)
    with torch.no_grad():
        assert not torch.allclose(ravlt(x), mavit(x), rtol=1e-3, atol=0)
        softmax = [tiny(name, mixers=["softmax"] * 4)(x) for name in ("ravlt_t", "mavit_t")]
    assert torch.equal(*softmax)


@pytest.mark.parametrize("name", ["ravlt_t", "mavit_t"])
@pytest.mark.parametrize("layout", ["ours", "authors"])
def test_conversion(name, layout):
    model = tiny(name)
    own = model.state_dict()
    convolutions = (".qkvo.weight", ".attn.proj.weight", "head.fc.weight")
    given = {
        key: value[..., None, None] if layout == "authors" and key.endswith(convolutions) else value
        for key, value in own.items()
    }
    converted = family_of(name).convert_checkpoint(given, model)
    assert converted.keys() == own.keys() and all(torch.equal(converted[key], own[key]) for key in own)


def test_unknown_mixers_are_refused():
    with pytest.raises(ValueError, match='mixers must be "linear" or "softmax" for each of 4 stages'):
        RAVLT(mixers=("linear", "linear", "softmax", "agent"), device="meta")
    with pytest.raises(ValueError, match="for each of 4 stages"):
        RAVLT(mixers=("linear",), device="meta")
