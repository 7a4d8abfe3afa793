"""What is special to VAN: norms at the end of every stage, which dense predictors take as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.features import DenseBackbone
from backbones.layers.norm import LayerNorm2d
from backbones.models import family_of, list_models

from .zoo import full_size, image, stir, tiny

MODELS = list_models("van_*")


@pytest.mark.parametrize("name", MODELS)
def test_published_form(name):
    model = full_size(name)
    dims = [info["num_chs"] for info in model.feature_info]
    for dim, ratio, stage in zip(dims, (8, 8, 4, 4), model.stages, strict=True):
        assert isinstance(stage.norm, LayerNorm2d) and stage.norm.eps == 1e-6
        for block in stage.blocks:
            assert isinstance(block.norm1, nn.BatchNorm2d) and block.mlp.fc1.out_features == ratio * dim
            assert type(block.mlp.dwconv) is nn.Conv2d, "the depthwise convolution is not residual"
    assert set(model.pretrained_cfg["mean"]) == set(model.pretrained_cfg["std"]) == {0.5}


def test_every_stage_is_normed_on_its_way():
    model = stir(tiny("van_b0"))
    x = image()
    with torch.no_grad():
        raw, normed = model.forward_stages(x), model.forward_stages(x, normed=True)
        for stage, a, b in zip(model.stages, raw, normed, strict=True):
            assert torch.equal(stage.norm(a), b) and not torch.equal(a, b)
        for stage, before, after in zip(model.stages[1:], normed, raw[1:], strict=False):
            torch.testing.assert_close(stage(before), after)
        assert torch.equal(model.forward_features(x), normed[-1])
        assert torch.equal(model.forward_intermediates(x, norm=True, intermediates_only=True)[-1], normed[-1])


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (0, 2)])
@pytest.mark.parametrize("out_norm", ["published", "layer", None])
def test_dense_maps_are_those_that_the_stages_hand_on(out_norm, out_indices):
    backbone = DenseBackbone("van_b0", out_indices, out_norm, **family_of("van_b0").tiny).eval()
    assert all(isinstance(norm, nn.Identity) for norm in backbone.out_norms)
    assert [stage.norm.eps for stage in backbone.model.stages] == [1e-5] * (out_indices[-1] + 1)
    stir(backbone)
    x = image()
    with torch.no_grad():
        expected = backbone.model.forward_stages(x, normed=True)
        for i, got in zip(out_indices, backbone(x), strict=True):
            assert torch.equal(got, expected[i])


def test_initial_values():
    """All layers but the classifier by their fan-out, the MLPs' linears included."""
    torch.manual_seed(0)
    model = tiny("van_b0")
    block = model.stages[3].blocks[0]
    assert block.mlp.fc1.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.1)
    assert block.attn.attn.far.weight.std().item() == pytest.approx((2 / 49) ** 0.5, rel=0.1)
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(block.ls1.gamma, torch.full((64,), 1e-2))


def test_own_keys_pass_the_conversion_unchanged():
    model = tiny("van_b0")
    own = model.state_dict()
    converted = family_of("van_b0").convert_checkpoint(own, model)
    assert converted.keys() == own.keys() and all(torch.equal(converted[key], own[key]) for key in own)
