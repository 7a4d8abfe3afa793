"""Attention to a reduced map, and its table of biases."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.reduction import OverlappingReductionAttention, PairBias


def _reference(layer: OverlappingReductionAttention, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    batch, dim, height, width = x.shape
    reduced = layer.reduce(x)
    reduced = reduced + F.conv2d(reduced, layer.local_conv.weight, layer.local_conv.bias, padding=1, groups=dim)
    q = F.conv2d(x, layer.q.weight[:, :, None, None], layer.q.bias)
    k, v = F.conv2d(reduced, layer.kv.weight[:, :, None, None], layer.kv.bias).chunk(2, dim=1)
    q, k, v = (t.reshape(batch, layer.num_heads, -1, t.shape[2] * t.shape[3]) for t in (q, k, v))
    weights = (q.mT @ k * q.shape[2] ** -0.5 + bias).softmax(-1)
    return (v @ weights.mT).reshape(batch, dim, height, width).permute(0, 2, 3, 1)


@pytest.mark.parametrize("reduction", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_layer_and_gradients_match_plain_products(reduction, size):
    torch.manual_seed(0)
    layer = OverlappingReductionAttention(8, 2, reduction).double()
    keys = [-(-side // reduction) for side in size]
    x = torch.randn(2, 8, *size, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    bias = torch.randn(1, 2, size[0] * size[1], keys[0] * keys[1], dtype=torch.float64, requires_grad=True)
    results = []
    for out in (layer(x, bias), _reference(layer, x, bias)):
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [x, bias, *layer.parameters()])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="dim 8 must be a multiple of num_heads 3"):
        OverlappingReductionAttention(8, 3, 1)


def test_table_is_resized_only_where_the_counts_differ():
    torch.manual_seed(0)
    bias = PairBias(2, (8, 6), 4)
    assert bias.table.shape == (1, 2, 48, 4) and not bias.table.any()
    torch.nn.init.normal_(bias.table)
    assert bias(torch.empty(1, 3, 8, 6)) is bias.table
    assert bias(torch.empty(1, 3, 6, 8)) is bias.table  # the same counts
    larger = bias(torch.empty(1, 3, 9, 13))
    torch.testing.assert_close(larger, F.interpolate(bias.table, size=(9 * 13, 3 * 4), mode="bicubic"))
    larger.sum().backward()
    assert bias.table.grad.any()


def test_table_of_half_precision_is_resized_in_single():
    bias = PairBias(1, (4, 4), 1, dtype=torch.bfloat16)
    torch.nn.init.normal_(bias.table)
    resized = bias(torch.empty(1, 1, 5, 5))
    assert resized.dtype == torch.bfloat16
    expected = F.interpolate(bias.table.float(), size=(25, 25), mode="bicubic")
    torch.testing.assert_close(resized, expected.bfloat16())
