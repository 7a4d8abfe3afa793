"""What is special to PATNet."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.layers.attention.relpos import DistanceBias2d
from backbones.models import family_of, list_models
from backbones.models.patnet.model import ChannelGate, NormedAttention, PositionGate

from .zoo import full_size, image, stir, tiny

MODELS = list_models("patnet_*")


@pytest.mark.parametrize("name", MODELS)
def test_published_form(name):
    model = full_size(name)
    for i, stage in enumerate(model.stages):
        for block in stage.blocks:
            convolved, rest = block.mixer.split
            assert rest == 3 * convolved and convolved + rest == model.feature_info[i]["num_chs"]
            assert type(block.mixer.rest) is (NormedAttention if i == 3 else ChannelGate)
            assert block.two_residuals == (i == 3)
            assert isinstance(block.gate, PositionGate) == (name == "patnet_t1")
            assert type(block.act).__name__ == ("GELU" if name in ("patnet_t0", "patnet_t1") else "ReLU")
    rest = model.stages[3].blocks[0].mixer.rest
    assert rest.norm.eps == 1e-6
    attention = rest.attn
    assert attention.num_heads == 4 and isinstance(attention.rel_pos, DistanceBias2d)
    assert model.head_hidden_size == 1280


def _normed(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    mean, var, weight, bias = (
        t.view(1, -1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (var + norm.eps).sqrt() * weight + bias


def _prepared(layer: nn.Module) -> nn.Module:
    """In double precision and evaluation mode, with statistics and parameters of no special values."""
    stir(layer.double().eval())
    for norm in layer.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return layer


def _hard_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return (x / 6 + 0.5).clamp(0, 1)


def _channel_gate(layer: ChannelGate, x: torch.Tensor) -> torch.Tensor:
    count = x.shape[2] * x.shape[3]
    mean = x.sum((2, 3)) / count
    std = ((x - mean[..., None, None]).square().sum((2, 3)) / (count - 1)).sqrt()
    score = mean @ layer.mix.weight[:, :, 0, 0].T + std @ layer.mix.weight[:, :, 0, 1].T
    return _normed(x * _hard_sigmoid(_normed(score[..., None, None], layer.norm1)), layer.norm2)


def _position_gate(layer: PositionGate, x: torch.Tensor) -> torch.Tensor:
    first, second = x[:, :4], x[:, 4:]
    score = (first * layer.score.weight[0, :, 0, 0].view(1, -1, 1, 1)).sum(1, keepdim=True)
    mixed = torch.einsum("bchw,dc->bdhw", _normed(second, layer.norm2), layer.mix.weight[:, :, 0, 0])
    return torch.cat([_normed(first * _hard_sigmoid(score), layer.norm1), mixed], dim=1)


@pytest.mark.parametrize(("kind", "reference"), [(ChannelGate, _channel_gate), (PositionGate, _position_gate)])
def test_gates_and_gradients_match_plain_sums(kind, reference):
    torch.manual_seed(0)
    layer = _prepared(kind(7))
    x = torch.randn(2, 7, 4, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for out in (layer(x), reference(layer, x)):
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_residuals():
    model = stir(tiny("patnet_t1", drop_path_rate=0.0))
    for i, stage in enumerate(model.stages):
        block, x = stage.blocks[0], torch.randn(2, model.feature_info[i]["num_chs"], 6, 5)
        with torch.no_grad():
            y = block.mixer(x) + (x if i == 3 else 0)
            mlp = block.gate(block.fc2(block.act(block.fc1(y))))
            torch.testing.assert_close(block(x), (y if i == 3 else x) + mlp)


def test_options_reach_the_layers():
    model = tiny("patnet_t0", channel_gate=False, attn_drop_rate=0.1, layer_scale=0.5, n_div=2)
    assert isinstance(model.stages[0].blocks[0].mixer.rest, nn.Identity)
    assert model.stages[3].blocks[0].mixer.rest.attn.drop.p == 0.1
    assert model.stages[3].blocks[0].mixer.split == (32, 32)
    assert (model.stages[2].blocks[1].ls.gamma == 0.5).all()
    x = image()
    model.train()
    assert not torch.equal(model(x), model(x)), "attention drops in training"


def test_initial_values():
    model = tiny("patnet_t1")
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.numel() > 1000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15), name


def test_own_keys_pass_the_conversion_unchanged():
    for name in MODELS:
        model = tiny(name, layer_scale=1e-5)
        own = model.state_dict()
        converted = family_of(name).convert_checkpoint(own, model)
        assert converted.keys() == own.keys() and all(torch.equal(converted[key], own[key]) for key in own)
