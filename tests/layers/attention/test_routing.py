"""Bi-level routing attention against a literal reading of the paper, region by region."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.layers.attention.routing import BiLevelRoutingAttention
from backbones.ops._dispatch import use_backend

DIM, HEADS = 8, 2


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
    """`(t, D)`, `(m, D)`, `(m, C)` to `(t, C)`, head by head."""
    parts = zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1))
    return torch.cat([(a * scale @ b.T).softmax(-1) @ c for a, b, c in parts], -1)


def _reference(layer: BiLevelRoutingAttention, x: torch.Tensor) -> torch.Tensor:
    """The layer in loops over images and regions: projections on the map, a list of token indices a region."""
    n, dim = layer.n_win, layer.qk_dim
    height, width = x.shape[1:3]
    if layer.pad == "input":
        x = F.pad(x, (0, 0, 0, -width % n, 0, -height % n))
        h, w = x.shape[1] // n, x.shape[2] // n
    else:
        h, w = max(height // n, 1), max(width // n, 1)
    q, kv = layer.q(x), layer.kv(x)
    v_map = kv[..., dim:]
    pad = (0, 0, 0, -x.shape[2] % w, 0, -x.shape[1] % h)
    real = F.pad(torch.ones_like(x[..., :1]), pad)
    q, kv = F.pad(q, pad), F.pad(kv, pad)
    out = torch.zeros_like(kv[..., dim:])
    tops, lefts = range(0, q.shape[1], h), range(0, q.shape[2], w)
    cells = [(slice(top, top + h), slice(left, left + w)) for top, left in itertools.product(tops, lefts)]
    for b in range(len(x)):
        counts = [real[b, rows, cols].sum() for rows, cols in cells]
        q_mean = torch.stack([q[b, r, c].sum((0, 1)) / m for (r, c), m in zip(cells, counts)])
        k_mean = torch.stack([kv[b, r, c, :dim].sum((0, 1)) / m for (r, c), m in zip(cells, counts)])
        if not layer.diff_routing:
            q_mean, k_mean = q_mean.detach(), k_mean.detach()
        scores = layer.router(q_mean) * dim**-0.5 @ layer.router(k_mean).T
        best, index = scores.topk(min(layer.topk, len(cells)), -1)
        weight = best.softmax(-1) if layer.soft_routing else torch.ones_like(best)
        for i, (rows, cols) in enumerate(cells):
            routed = []
            for j, share in zip(index[i].tolist(), weight[i]):
                region = kv[b][cells[j]]
                if layer.kv_pool is not None:
                    region = layer.kv_pool(region.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
                routed.append(region.flatten(0, 1) * share)
            keys = torch.cat(routed)
            region = _attend(q[b, rows, cols].flatten(0, 1), keys[:, :dim], keys[:, dim:], layer.num_heads, layer.scale)
            out[b, rows, cols] = region.unflatten(0, (h, w))
    out = out[:, : v_map.shape[1], : v_map.shape[2]]
    if layer.lepe is not None:
        out = out + layer.lepe(v_map.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return layer.proj(out[:, :height, :width])


LAYERS = {
    "plain": {},
    "one": {"topk": 1},
    "qkv": {"pad": "qkv"},
    "no_lepe": {"lepe_kernel": 0},
    "narrow": {"qk_dim": 4, "lepe_kernel": 3},
    "avg": {"kv_pool": nn.AdaptiveAvgPool2d(2)},
    "max": {"kv_pool": nn.MaxPool2d(2, ceil_mode=True), "pad": "qkv"},
    "soft": {"soft_routing": True},
    "diff": {"soft_routing": True, "diff_routing": True},
    "param": {"soft_routing": True, "diff_routing": True, "param_routing": True, "pad": "qkv"},
}


def _layer(name: str, n_win: int = 3, **kwargs) -> BiLevelRoutingAttention:
    return BiLevelRoutingAttention(DIM, HEADS, **{"n_win": n_win, "topk": 2, **LAYERS[name], **kwargs}).double()


def _results(layer: nn.Module, call, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    out = call(x)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("size", [(6, 9), (7, 11), (13, 5)])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_and_gradients_match_the_paper(name, size):
    layer = _layer(name)
    x = torch.randn(2, *size, DIM, dtype=torch.float64)
    expected = _results(layer, lambda x: _reference(layer, x), x)
    for got, want in zip(_results(layer, layer, x), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_both_paddings_agree_where_nothing_is_padded():
    layer, x = _layer("plain"), torch.randn(2, 6, 9, DIM, dtype=torch.float64)
    other = _layer("qkv")
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x))
    assert not torch.allclose(other(x[:, :5]), layer(x[:, :5]))


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (5, 2)])
@pytest.mark.parametrize("pad", ["input", "qkv"])
def test_maps_smaller_than_the_grid(pad, size):
    layer = _layer("plain", n_win=4, topk=5, pad=pad)
    x = torch.randn(1, *size, DIM, dtype=torch.float64)
    torch.testing.assert_close(layer(x), _reference(layer, x))


def test_routes_pick_the_most_similar_regions():
    layer = _layer("plain", topk=1)
    with torch.no_grad():
        for linear in (layer.q, layer.kv):
            linear.weight[:DIM].copy_(torch.eye(DIM))
            linear.bias.zero_()
    kinds = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 0]])
    x = F.one_hot(kinds, DIM).double().repeat_interleave(2, 0).repeat_interleave(2, 1)[None]
    routes = layer.routes(x)[0, :, 0].tolist()
    assert routes[1:8] == [1, 2, 3, 4, 5, 6, 7] and {routes[0], routes[8]} <= {0, 8}


def test_routing_scores_stay_float32_under_autocast():
    layer = BiLevelRoutingAttention(DIM, HEADS, n_win=3, topk=2)
    x = torch.randn(2, 6, 6, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        grid = layer._regions(6, 6)
        q, kv, _ = layer._project(x, grid)
        _, score = layer._route(q, kv, grid, 6, 6)
    assert q.dtype == torch.bfloat16 and score.dtype == torch.float32
    q, k = q.float().mean(2), kv[..., :DIM].float().mean(2)
    torch.testing.assert_close(score, (q * DIM**-0.5 @ k.mT).topk(2).values, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("backend", ["dense", "chunked", "gathered", "reference"])
def test_half_precision(backend):
    layer = BiLevelRoutingAttention(DIM, HEADS, n_win=3, topk=9)  # every region: no routing to flip
    x = torch.randn(2, 6, 6, DIM)
    expected = _results(layer, layer, x)

    def mixed(x):
        with torch.autocast("cpu", torch.bfloat16), use_backend(backend):
            return layer(x)

    scale = [want.abs().max() for want in expected]
    for got, want, unit in zip(_results(layer, mixed, x), expected, scale):
        torch.testing.assert_close(got.float(), want, rtol=0, atol=0.1 * unit.item())
    with use_backend(backend):
        out = layer.bfloat16()(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected[0], rtol=0, atol=0.05 * scale[0].item())


@pytest.mark.parametrize("pad", ["input", "qkv"])
def test_exported_program_runs_at_other_sizes(pad):
    layer = BiLevelRoutingAttention(DIM, HEADS, n_win=7, topk=4, pad=pad).eval()
    sides = {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    program = torch.export.export(layer, (torch.randn(1, 28, 33, DIM),), dynamic_shapes=(sides,)).module()
    for size in ((28, 33), (14, 14), (40, 21), (16, 57)):
        x = torch.randn(1, *size, DIM)
        torch.testing.assert_close(program(x), layer(x), rtol=1e-4, atol=1e-5)


def test_compiled_with_dynamic_sizes():
    torch._dynamo.reset()
    layer = BiLevelRoutingAttention(DIM, HEADS, n_win=3, topk=2)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for size in ((19, 25), (22, 31)):
            x = torch.randn(2, *size, DIM)
            torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pad", ["input", "qkv"])
def test_compiled_training_step(pad):
    torch._dynamo.reset()
    layer = BiLevelRoutingAttention(DIM, HEADS, n_win=3, topk=2, pad=pad)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 20, 25, DIM)
    for got, want in zip(_results(layer, compiled, x), _results(layer, layer, x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_meta_device():
    layer = BiLevelRoutingAttention(DIM, HEADS, topk=4, device="meta")
    assert layer(torch.empty(1, 60, 60, DIM, device="meta")).shape == (1, 60, 60, DIM)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"dim": 9}, "multiples of num_heads"),
        ({"qk_dim": 3}, "multiples of num_heads"),
        ({"topk": 10}, "topk must be between 1 and n_win"),
        ({"topk": 0}, "topk must be between 1 and n_win"),
        ({"lepe_kernel": 4}, "lepe_kernel must be odd"),
        ({"pad": "reflect"}, "pad must be"),
        ({"diff_routing": True}, "needs soft_routing"),
        ({"param_routing": True, "soft_routing": True}, "needs diff_routing"),
    ],
)
def test_options_that_do_not_fit_are_named(args, message):
    with pytest.raises(ValueError, match=message):
        BiLevelRoutingAttention(**{"dim": DIM, "num_heads": HEADS, "n_win": 3, "topk": 2, **args})
