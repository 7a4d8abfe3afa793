"""InLine attention against its weights, pair by pair, and a convolution of every image by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.inline import FEATURE_MAPS, InLineAttention, TokenInLineAttention
from backbones.layers.block import MixerBlock
from backbones.layers.mixers import Mixer
from tests.models.zoo import stir


def _reference(layer: InLineAttention, x: torch.Tensor, grid: tuple[int, int], source: torch.Tensor) -> torch.Tensor:
    """Of tokens `(B, P + H * W, C)`; the kernels are made of the mean of `source`, tokens as well."""
    heads, dim = layer.num_heads, x.shape[2]
    prefix = x.shape[1] - grid[0] * grid[1]
    phi = FEATURE_MAPS[layer.feature_map]
    q, k, v = F.linear(x, layer.qkv.weight, layer.qkv.bias).split(dim, dim=2)
    mixed = []
    for qh, kh, vh in zip(*(t.split(dim // heads, dim=2) for t in (phi(q), phi(k), v))):
        s, n = (dim // heads) ** -0.5, x.shape[1]
        weights = s / n * (qh @ kh.mT - qh @ kh.mean(1, keepdim=True).mT) + 1 / n
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        mixed.append(weights @ vh)
    out = torch.cat(mixed, dim=2)
    for i, mean in enumerate(source.mean(1)):
        kernels = []
        for g in range(heads):
            part, rows = slice(g * dim // heads, (g + 1) * dim // heads), layer.local
            hidden = F.gelu(rows.fc1.weight[part, :, 0] @ mean[part] + rows.fc1.bias[part])
            taps = slice(9 * part.start, 9 * part.stop)
            kernels.append((rows.fc2.weight[taps, :, 0] @ hidden + rows.fc2.bias[taps]).view(-1, 1, 3, 3))
        image = v[i, prefix:].T.reshape(1, dim, *grid)
        local = F.conv2d(image, torch.cat(kernels), padding=1, groups=dim)
        if layer.lepe is not None:
            local = local + layer.lepe(image)
        out[i, prefix:] += local[0].flatten(1).T
    return F.linear(out, layer.proj.weight, layer.proj.bias)


def _assert_same(layer: torch.nn.Module, x: torch.Tensor, out: torch.Tensor, expected: torch.Tensor) -> None:
    inputs = (x, *layer.parameters())
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    torch.testing.assert_close(out, expected)
    for got, want in zip(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (out, expected)), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("args", [{}, {"lepe": True}, *({"feature_map": name} for name in FEATURE_MAPS)])
@pytest.mark.parametrize("grid", [(3, 5), (1, 1)])
def test_maps(args, grid):
    torch.manual_seed(0)
    layer = stir(InLineAttention(12, 3, dtype=torch.float64, **args), std=0.5)
    x = torch.randn(2, *grid, 12, dtype=torch.float64, requires_grad=True)
    tokens = x.flatten(1, 2)
    _assert_same(layer, x, layer(x), _reference(layer, tokens, grid, tokens).view(x.shape))


@pytest.mark.parametrize("prefix, lepe", [(0, False), (1, False), (2, True)])
def test_tokens_in_front_of_the_map(prefix, lepe):
    torch.manual_seed(0)
    layer = stir(TokenInLineAttention(12, 3, lepe=lepe, num_prefix_tokens=prefix, dtype=torch.float64), std=0.5)
    x = torch.randn(2, prefix + 15, 12, dtype=torch.float64, requires_grad=True)
    _assert_same(layer, x, layer(x, (3, 5)), _reference(layer, x, (3, 5), x))


@pytest.mark.parametrize("kernels_from", ["input", "shortcut"])
def test_kernels_are_made_of_the_map_before_or_after_the_norm(kernels_from):
    torch.manual_seed(0)
    layer = InLineAttention(12, 3, kernels_from=kernels_from, dtype=torch.float64)
    block = stir(MixerBlock(12, layer, mlp_ratio=1, dtype=torch.float64), std=0.5)
    x = torch.randn(2, 12, 3, 5, dtype=torch.float64)
    tokens = x.flatten(2).mT
    source = tokens if kernels_from == "shortcut" else block.norm1(tokens)
    y = tokens + _reference(layer, block.norm1(tokens), (3, 5), source)
    y = y + block.mlp(block.norm2(y))
    torch.testing.assert_close(block(x), y.mT.view(x.shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_holds_large_maps_and_values(dtype):
    """The sums over 16384 positions stay in range, forward and backward, and agree with those of float32."""
    torch.manual_seed(0)
    layer = InLineAttention(32, 1)
    x = 10 * torch.randn(1, 128, 128, 32) + 10
    results = []
    for enabled in (False, True):
        y = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype, enabled=enabled):
            out = layer(y)
        out.float().square().mean().backward()
        results.append((out.detach().float(), y.grad))
    eps = torch.finfo(dtype).eps
    for want, got in zip(*results):
        assert got.isfinite().all()
        assert (got - want).std() < 8 * eps * want.std()


def test_hosts_of_tokens_have_no_shortcut_for_the_kernels():
    with pytest.raises(ValueError, match=r"kernels_from of the mixer .inline. is .input., not 'shortcut'"):
        Mixer.of({"name": "inline", "kernels_from": "shortcut"})(12, 3, map_size=(3, 5), num_prefix_tokens=1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"num_heads": 5}, "multiple of num_heads"),
        ({"feature_map": "elu"}, "feature_map must be one of identity, relu"),
        ({"kernels_from": "norm"}, 'must be "input" or "shortcut"'),
    ],
)
def test_options_that_do_not_exist_are_named(args, message):
    with pytest.raises(ValueError, match=message):
        InLineAttention(12, **{"num_heads": 3, **args})
