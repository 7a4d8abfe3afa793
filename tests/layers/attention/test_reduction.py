"""Attention to a reduced map, and its table of biases."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.reduction import OverlappingReductionAttention, PairBias, SpatialReductionAttention
from tests.models.zoo import stir


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


@pytest.mark.parametrize("reduction", [1, 2, 4])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_attention_to_patches(reduction, qkv_bias):
    """Of which the last row and column of a map of 9 x 7 are no part."""
    torch.manual_seed(0)
    layer = stir(SpatialReductionAttention(8, 2, reduction, qkv_bias, dtype=torch.float64), std=0.5)
    x = torch.randn(2, 9, 7, 8, dtype=torch.float64)
    source = x
    if reduction > 1:
        rows, columns = 9 // reduction, 7 // reduction
        cells = x[:, : rows * reduction, : columns * reduction].unflatten(1, (rows, -1)).unflatten(3, (columns, -1))
        source = torch.einsum("byrxsc,dcrs->byxd", cells, layer.sr.weight) + layer.sr.bias
        source = F.layer_norm(source, (8,), layer.norm.weight, layer.norm.bias)
    q = layer.q(x).flatten(1, 2).unflatten(2, (2, 4)).transpose(1, 2)
    k, v = (t.flatten(1, 2).unflatten(2, (2, 4)).transpose(1, 2) for t in layer.kv(source).chunk(2, dim=3))
    expected = layer.proj(((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).reshape(x.shape))
    torch.testing.assert_close(layer(x), expected)
    if reduction > 1:
        tiny = F.pad(x[:, :1, :1], (0, 0, 0, reduction - 1, 0, reduction - 1))
        torch.testing.assert_close(layer(x[:, :1, :1]), layer(tiny)[:, :1, :1])


@pytest.mark.parametrize("layer", [OverlappingReductionAttention, SpatialReductionAttention])
def test_heads_must_divide_the_channels(layer):
    with pytest.raises(ValueError, match="dim 8 must be a multiple of num_heads 3"):
        layer(8, 3, 1)


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
