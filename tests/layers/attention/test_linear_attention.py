"""Linear attention, and the softmax attention beside it, against sums over pairs of positions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.linear_attention import (
    GatedRotaryAttention,
    MagnitudeAwareLinearAttention,
    RankAugmentedLinearAttention,
)

LAYERS = (GatedRotaryAttention, RankAugmentedLinearAttention, MagnitudeAwareLinearAttention)


def _turn(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Rotary positions of one head, `(N, c)`, as products of complex numbers."""
    quarter = x.shape[1] // 4
    angles = 10000 ** -torch.linspace(0, 1, quarter, dtype=x.dtype)
    y, x_ = torch.arange(height, dtype=x.dtype), torch.arange(width, dtype=x.dtype)
    rows = (y[:, None, None] * angles).expand(height, width, quarter)
    columns = (x_[None, :, None] * angles).expand(height, width, quarter)
    phases = torch.cat([rows, columns], -1).reshape(height * width, 2 * quarter)
    pairs = torch.complex(x[:, 0::2], x[:, 1::2]) * torch.polar(torch.ones_like(phases), phases)
    return torch.stack([pairs.real, pairs.imag], -1).flatten(1)


def _softmax(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, turn) -> torch.Tensor:
    return (turn(q) @ turn(k).T * q.shape[1] ** -0.5).softmax(1) @ v


def _rala(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, turn) -> torch.Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    alpha = torch.stack([q.mean(0) @ key * q.shape[1] ** -0.5 for key in k]).softmax(0)
    k = len(k) * alpha[:, None] * k
    scores = turn(q) @ turn(k).T / len(k)
    return scores @ v / ((q * k.mean(0)).sum(1, keepdim=True) + 1e-6)


def _mala(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, turn) -> torch.Tensor:
    """Equation 7 with s = c^-0.5: scores times beta, minus gamma."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    scale = q.shape[1] ** -0.5 / len(k)
    total = (q @ k.T * scale).sum(1, keepdim=True)
    scores = turn(q) @ turn(k).T * scale
    return (scores * (1 + 1 / (total + 1e-6)) - total / len(k)) @ v


def _reference(layer: GatedRotaryAttention, x: torch.Tensor) -> torch.Tensor:
    attend = dict(zip(LAYERS, (_softmax, _rala, _mala), strict=True))[type(layer)]
    height, width, dim = x.shape[1:]
    q, k, v, o = F.linear(x, layer.qkvo.weight, layer.qkvo.bias).split(dim, -1)
    out = []
    for image in zip(q, k, v, strict=True):
        heads = zip(*(part.reshape(-1, dim).chunk(layer.num_heads, 1) for part in image), strict=True)
        out.append(torch.cat([attend(*head, lambda t: _turn(t, height, width)) for head in heads], 1))
    lepe = F.conv2d(v.permute(0, 3, 1, 2), layer.lepe.weight, layer.lepe.bias, padding="same", groups=dim)
    mixed = (torch.stack(out).view_as(v) + lepe.permute(0, 2, 3, 1)) * o
    return F.linear(mixed, layer.proj.weight, layer.proj.bias)


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize(("size", "heads", "kernel"), [((4, 5), 2, 5), ((1, 6), 4, 3), ((3, 3), 1, 1)])
def test_layer_and_gradients_match_sums_over_pairs(cls, size, heads, kernel):
    torch.manual_seed(0)
    layer = cls(16, heads, kernel).double()
    x = torch.randn(2, *size, 16, dtype=torch.float64, requires_grad=True)
    results = []
    for out in (layer(x), _reference(layer, x)):
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)  # rotations are in float32


@pytest.mark.parametrize(("cls", "size"), zip(LAYERS, (16, 128, 128)))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_large_inputs(cls, size, dtype):
    """Finite, and within the rounding of queries, keys and values, with queries and keys of several tens."""
    torch.manual_seed(0)
    layer = cls(32, 2)
    torch.nn.init.normal_(layer.qkvo.weight, std=32**-0.5)
    x = (10 * torch.randn(1, size, size, 32)).requires_grad_()
    want = layer(x)
    with torch.autocast("cpu", dtype):
        got = layer(x)
    grads = torch.autograd.grad(got.float().square().mean(), [x, *layer.parameters()])
    assert got.isfinite().all() and all(grad.isfinite().all() for grad in grads)
    assert (got - want).std() < 16 * torch.finfo(dtype).eps * want.std()


@pytest.mark.parametrize("cls", LAYERS)
def test_impossible_sizes_are_refused(cls):
    with pytest.raises(ValueError, match="dim 20 must be a multiple of 4 times num_heads 2"):
        cls(20, 2)
    with pytest.raises(ValueError, match="lepe_kernel must be odd, not 4"):
        cls(16, 2, 4)
