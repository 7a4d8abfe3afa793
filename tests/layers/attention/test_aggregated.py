"""TransNeXt's attentions and their position bias, against the paper's formulas written out position by position."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.layers.attention import aggregated
from backbones.layers.attention.aggregated import AggregatedAttention, CosineAttention2d
from backbones.layers.attention.relpos import PooledPositionBias2d
from backbones.layers.conv.basic import ConvGLU

# Offsets and lengths are constants in single precision.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def stirred(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return module.double().eval()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def centers(size: int, cells: int) -> torch.Tensor:
    return F.adaptive_avg_pool1d(torch.arange(size, dtype=torch.float64)[None], cells)[0]


def bias_of_pairs(rel_pos: PooledPositionBias2d, size, pooled) -> torch.Tensor:
    """`(heads, H * W, P * Q)`: the MLP of every pair."""
    queries = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in size))
    keys = torch.cartesian_prod(*(centers(n, m) for n, m in zip(size, pooled)))
    side = torch.tensor([n - 1 for n in rel_pos.trained_map])
    r = (queries[:, None] - keys) / side * 8
    r = r.sign() * (r.abs() + 1).log2() / math.log2(8)
    return rel_pos.fc2(F.relu(rel_pos.fc1(r))).permute(2, 0, 1)


@pytest.mark.parametrize("size, pooled", [((8, 6), (2, 3)), ((7, 5), (3, 2)), ((4, 5), (4, 5)), ((9, 4), (1, 4))])
def test_position_bias_of_pooled_maps(size, pooled):
    rel_pos = stirred(PooledPositionBias2d(2, (8, 5), 16))
    torch.testing.assert_close(rel_pos(size, pooled), bias_of_pairs(rel_pos, size, pooled), **CLOSE)


def direct(layer: AggregatedAttention, x: torch.Tensor, pooled: tuple[int, int], bias: torch.Tensor) -> torch.Tensor:
    """One image `(H, W, C)`, head by head, position by position; what the heads give."""
    height, width, dim = x.shape
    c, n, side = dim // layer.num_heads, layer.num_heads, layer.window_size // 2
    hidden = F.gelu(layer.sr(x)).permute(2, 0, 1)
    cells = layer.norm(F.adaptive_avg_pool2d(hidden, pooled).flatten(1).T)
    q, (k, v), (pk, pv) = layer.q(x), layer.kv(x).split(dim, -1), layer.kv(cells).split(dim, -1)
    out = torch.zeros_like(x)
    for h in range(n):
        part = slice(h * c, (h + 1) * c)
        for i in range(height):
            for j in range(width):
                plain = F.normalize(q[i, j, part], dim=0)
                taps = [
                    (t, i + t // layer.window_size - side, j + t % layer.window_size - side)
                    for t in range(layer.window_size**2)
                ]
                taps = [(t, a, b) for t, a, b in taps if 0 <= a < height and 0 <= b < width]
                length = math.log(len(taps) + len(cells))
                query = (plain + layer.query_embedding[h, 0]) * F.softplus(layer.temperature[h, 0, 0]) * length
                local = [
                    query @ F.normalize(k[a, b, part], dim=0) + layer.relative_pos_bias_local[h, t] for t, a, b in taps
                ]
                far = F.normalize(pk[:, part], dim=1) @ query + bias[h, i * width + j]
                weights = torch.cat([torch.stack(local), far]).softmax(0)
                out[i, j, part] = weights[len(taps) :] @ pv[:, part]
                for weight, (t, a, b) in zip(weights, taps):
                    extra = plain @ layer.learnable_tokens[h, :, t] + layer.learnable_bias[h, 0, t]
                    out[i, j, part] += (weight + extra) * v[a, b, part]
    return out


@pytest.mark.parametrize(
    "size, window, options, pooled",
    [
        ((6, 4), 3, {"reduction": 2}, (3, 2)),
        ((5, 7), 5, {"reduction": 2}, (2, 3)),
        ((1, 2), 3, {"reduction": 4}, (1, 1)),
        ((3, 6), 3, {"pool_size": 4}, (3, 4)),
    ],
)
def test_aggregated_attention_by_its_definition(size, window, options, pooled, monkeypatch):
    layer = stirred(AggregatedAttention(6, 2, (7, 7), window_size=window, **options))
    x, gates = normal(2, *size, 6), normal(2, *size, 2)
    bias = bias_of_pairs(layer.rel_pos, size, pooled)
    heads = torch.stack([direct(layer, image, pooled, bias) for image in x])
    torch.testing.assert_close(layer(x), layer.proj(heads), **CLOSE)
    gated = heads.unflatten(-1, (2, 3)) * gates.unsqueeze(-1)
    torch.testing.assert_close(layer(x, gates), layer.proj(gated.flatten(3)), **CLOSE)
    monkeypatch.setattr(aggregated, "CHUNK", 200)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.proj(heads), **CLOSE)


def test_interpolated_position_bias():
    """Over the keys first, then over the queries; at its own size as it is."""
    layer = stirred(AggregatedAttention(4, 2, (7, 7), bias_map=(4, 4), reduction=2))
    table = bias_of_pairs(layer.rel_pos, (4, 4), (2, 2))
    torch.testing.assert_close(layer.bias((4, 4), (2, 2), (2, 2)), table, **CLOSE)
    keys = F.interpolate(table.view(2, 16, 2, 2), size=(3, 2), mode="bilinear").flatten(2)
    both = F.interpolate(keys.transpose(1, 2).reshape(2, 6, 4, 4), size=(6, 5), mode="bilinear")
    found = layer.bias((6, 5), (3, 2), (2, 2))
    torch.testing.assert_close(found.double(), both.flatten(2).transpose(1, 2), **CLOSE)


def test_cosine_attention_by_its_definition():
    layer = stirred(CosineAttention2d(6, 2, (7, 7)))
    x, gates = normal(1, 3, 4, 6), normal(1, 3, 4, 2)
    q, k, v = (t.flatten(0, 1).unflatten(-1, (2, 3)).transpose(0, 1) for t in layer.qkv(x[0]).split(6, -1))
    query = (F.normalize(q, dim=-1) + layer.query_embedding) * F.softplus(layer.temperature) * math.log(12)
    weights = query @ F.normalize(k, dim=-1).transpose(1, 2) + bias_of_pairs(layer.rel_pos, (3, 4), (3, 4))
    heads = (weights.softmax(-1) @ v).transpose(0, 1).reshape(3, 4, 2, 3) * gates[0].unsqueeze(-1)
    torch.testing.assert_close(layer(x, gates)[0], layer.proj(heads.flatten(2)), **CLOSE)


def test_gated_linear_unit_by_its_definition():
    layer = stirred(ConvGLU(4, 5))
    x = normal(2, 3, 6, 4)
    gate, value = (x @ layer.fc1.weight.T + layer.fc1.bias).split(5, -1)
    gate = F.conv2d(gate.permute(0, 3, 1, 2), layer.dwconv.weight, layer.dwconv.bias, padding=1, groups=5)
    torch.testing.assert_close(layer(x), layer.fc2(F.gelu(gate).permute(0, 2, 3, 1) * value), **CLOSE)
