"""Attention over all positions against plain products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.attention.relpos import DistanceBias2d


def _reference(layer: GlobalAttention2d, x: torch.Tensor) -> torch.Tensor:
    batch, height, width, dim = x.shape
    head = dim // layer.num_heads
    qkv = F.linear(x.reshape(batch, -1, dim), layer.qkv.weight, layer.qkv.bias)
    heads = []
    for i in range(layer.num_heads):
        q, k, v = (qkv[..., part * dim + i * head : part * dim + (i + 1) * head] for part in range(3))
        heads.append(torch.softmax(q @ k.mT * head**-0.5, -1) @ v)
    out = torch.cat(heads, -1).view(batch, height, width, dim)
    if layer.lepe is not None:
        source = x if layer.lepe_input == "x" else qkv[..., 2 * dim :].reshape(batch, height, width, dim)
        out = out + layer.lepe(source.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return F.linear(out, layer.proj.weight, layer.proj.bias)


@pytest.mark.parametrize(
    "args", [{}, {"qkv_bias": True}, {"lepe_kernel": 3}, {"lepe_kernel": 5, "lepe_input": "x"}, {"num_heads": 4}]
)
def test_layer_and_gradients_match_plain_products(args):
    torch.manual_seed(0)
    layer = GlobalAttention2d(8, **{"num_heads": 2, **args}).double()
    x = torch.randn(2, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    results = []
    for out in (layer(x), _reference(layer, x)):
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_another_bias():
    torch.manual_seed(0)
    layer = GlobalAttention2d(8, 2, rel_pos=DistanceBias2d(2))
    torch.nn.init.normal_(layer.rel_pos.relative_position_bias_table)
    x = torch.randn(2, 3, 5, 8)
    q, k, v = layer.qkv(x).view(2, 15, 3, 2, 4).permute(2, 0, 3, 1, 4)
    out = torch.softmax(q @ k.mT / 2 + layer.rel_pos(3, 5), -1) @ v
    torch.testing.assert_close(layer(x), layer.proj(out.transpose(1, 2).reshape(2, 3, 5, 8)))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    layer, x = GlobalAttention2d(8, 2, drop=0.5), torch.randn(2, 3, 5, 8)
    assert 0.2 < (layer(x) == 0).float().mean() < 0.8 and not torch.equal(layer(x), layer(x))
    torch.testing.assert_close(layer.eval()(x), _reference(layer, x))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"dim": 9}, "multiple of num_heads"),
        ({"lepe_kernel": 4}, "lepe_kernel must be odd"),
        ({"lepe_input": "k"}, "lepe_input must be"),
    ],
)
def test_options_that_do_not_fit_are_named(args, message):
    with pytest.raises(ValueError, match=message):
        GlobalAttention2d(**{"dim": 8, "num_heads": 2, **args})
