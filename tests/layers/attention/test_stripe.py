"""Cross-shaped stripes against attention among all positions with a mask, and LePE stripe by stripe."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.stripe import CrossShapedAttention
from tests.models.zoo import stir


def _reference(layer: CrossShapedAttention, x: torch.Tensor) -> torch.Tensor:
    batch, height, width, dim = x.shape
    qkv = F.linear(x, layer.qkv.weight, layer.qkv.bias).flatten(1, 2)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    halves = []
    for branch, place in enumerate((column, row)):
        stripe = (place // layer.stripe_width).flatten()
        channels = slice(branch * dim // 2, (branch + 1) * dim // 2)
        q, k, v = (part[..., channels] for part in qkv.split(dim, dim=2))
        heads = zip(*(part.chunk(layer.num_heads // 2, dim=2) for part in (q, k, v)))
        apart = stripe[:, None] != stripe[None]
        logits = [(qh @ kh.mT * qh.shape[2] ** -0.5).masked_fill(apart, -torch.inf) for qh, kh, _ in heads]
        mixed = [one.softmax(-1) @ vh for one, vh in zip(logits, v.chunk(layer.num_heads // 2, dim=2))]
        local = torch.zeros(batch, dim // 2, height * width, dtype=x.dtype)
        for one in stripe.unique():
            alone = torch.where(stripe == one, v.mT, 0).view(batch, -1, height, width)
            local = local + torch.where(stripe == one, layer.lepe[branch](alone).flatten(2), 0)
        halves.append(torch.cat(mixed, dim=2) + local.mT)
    return F.linear(torch.cat(halves, dim=2), layer.proj.weight, layer.proj.bias).view(x.shape)


@pytest.mark.parametrize("height, width, stripe", [(4, 6, 2), (4, 6, 1), (5, 7, 3), (2, 3, 7), (1, 1, 2), (9, 2, 4)])
def test_definition(height, width, stripe):
    torch.manual_seed(0)
    layer = stir(CrossShapedAttention(8, 4, stripe, dtype=torch.float64), std=0.5)
    x = torch.randn(2, height, width, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)
    results = [
        [out, *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])]
        for out in (layer(x), _reference(layer, x))
    ]
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dim, heads", [(8, 3), (9, 3), (8, 1)])
def test_heads_are_halved(dim, heads):
    with pytest.raises(ValueError, match="must be even and divide"):
        CrossShapedAttention(dim, heads, 2)
