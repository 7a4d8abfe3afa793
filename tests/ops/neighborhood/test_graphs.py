"""Neighborhood attention under torch.compile, torch.export, torch.jit.trace and timm's FX tracer."""

from __future__ import annotations

import io

import pytest
import torch
from timm.layers import create_feature_extractor, get_graph_node_names
from torch import Tensor, nn

from backbones.ops.neighborhood import neighborhood_attention, neighborhood_av, neighborhood_bias

DIM, HEADS = 8, 2


class Attention(nn.Module):
    """Neighborhood attention of one qkv projection, with a position table."""

    stride = 1

    def __init__(self, kernel: int, dilation: int) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.rpb = nn.Parameter(torch.randn(HEADS, 2 * kernel - 1, 2 * kernel - 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(3, (3, HEADS, -1)).unbind(3)
        return neighborhood_attention(q, k, v, self.kernel, self.dilation, self.rpb, stride=self.stride).flatten(3)


class Strided(Attention):
    stride = 2


class Blocked(Attention):
    """Without a position table, so that nothing is masked where the map divides."""

    stride = 3

    def __init__(self, kernel: int, dilation: int) -> None:
        super().__init__(kernel, dilation)
        self.rpb = None


class Weights(nn.Module):
    """Given window weights and their position table, applied to the values."""

    def __init__(self, kernel: int, dilation: int) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.weights = nn.Linear(DIM, HEADS * kernel * kernel)
        self.rpb = nn.Parameter(torch.randn(HEADS, 2 * kernel - 1, 2 * kernel - 1))

    def forward(self, x: Tensor) -> Tensor:
        attn = self.weights(x).unflatten(3, (HEADS, -1)).permute(0, 3, 1, 2, 4)
        attn = attn + neighborhood_bias(self.rpb, x.shape[1], x.shape[2], self.kernel, self.dilation)
        v = x.unflatten(3, (HEADS, -1)).permute(0, 3, 1, 2, 4)
        return neighborhood_av(attn, v, self.kernel, self.dilation).permute(0, 2, 3, 1, 4).flatten(3)


CASES = [(Attention, 3, 1), (Attention, 3, 2), (Strided, 3, 2), (Blocked, 3, 1), (Weights, 3, 1), (Weights, 3, 2)]
SIZES = [(14, 15), (6, 6), (21, 9)]


def _model(kind: type[nn.Module], kernel: int, dilation: int) -> nn.Module:
    torch.manual_seed(0)
    return kind(kernel, dilation)


def _input(height: int, width: int) -> Tensor:
    return torch.randn(2, height, width, DIM, generator=torch.Generator().manual_seed(1))


def _with_grads(call, model: nn.Module, x: Tensor) -> list[Tensor]:
    out = call(x.requires_grad_())
    return [out.detach(), *torch.autograd.grad(out.square().mean(), [x, *model.parameters()])]


@pytest.mark.parametrize(("kind", "kernel", "dilation"), CASES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_forward_and_backward(kind, kernel: int, dilation: int, dynamic: bool) -> None:
    model = _model(kind, kernel, dilation)
    torch._dynamo.reset()
    graphs = 0

    def backend(gm, inputs):
        nonlocal graphs
        graphs += 1
        return torch._dynamo.lookup_backend("aot_eager")(gm, inputs)

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for size in SIZES if dynamic else SIZES[:1]:
        x, y = _input(*size), _input(*size)
        if dynamic:
            torch._dynamo.mark_dynamic(y, (1, 2))
        torch.testing.assert_close(_with_grads(compiled, model, y), _with_grads(model, model, x))
    assert graphs == 1


@pytest.mark.parametrize(("kind", "kernel", "dilation"), CASES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_export(kind, kernel: int, dilation: int, dynamic: bool) -> None:
    model = _model(kind, kernel, dilation).eval()
    low = kernel * dilation
    height, width = torch.export.Dim("height", min=low, max=2048), torch.export.Dim("width", min=low, max=2048)
    shapes = {"x": {1: height, 2: width}} if dynamic else None
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, (_input(*SIZES[0]),), dynamic_shapes=shapes), buffer)
    buffer.seek(0)
    exported = torch.export.load(buffer).module()
    for size in [*SIZES, (low, 40)] if dynamic else SIZES[:1]:
        torch.testing.assert_close(exported(_input(*size)), model(_input(*size)))


@pytest.mark.parametrize(("kind", "kernel", "dilation"), CASES)
def test_jit_trace(kind, kernel: int, dilation: int) -> None:
    model = _model(kind, kernel, dilation).eval()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, _input(14, 15)), buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(_input(14, 15)), model(_input(14, 15)))


@pytest.mark.parametrize(("kind", "kernel", "dilation"), CASES)
def test_fx_leaf(kind, kernel: int, dilation: int) -> None:
    """timm's feature extractor keeps the operators whole, gives the same bits and runs at another size."""
    model = _model(kind, kernel, dilation).eval()
    names = [n for n in get_graph_node_names(model)[1] if n.startswith("neighborhood")]
    expected = ["neighborhood_bias", "neighborhood_av"] if kind is Weights else ["neighborhood_attention"]
    assert names == expected
    extractor = create_feature_extractor(model, {"flatten": "out"})
    for size in SIZES:
        assert torch.equal(extractor(_input(*size))["out"], model(_input(*size)))


def test_traces_do_not_poison_eager() -> None:
    """Index tables made while a graph is captured, with fake tensors or in inference mode are not reused later."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = _model(Attention, 3, 2)
    size = (18, 13)  # a size of its own, so that nothing is cached yet
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model(mode.from_tensor(_input(*size)))
    torch.export.export(model, (_input(*size),))
    with torch.inference_mode():
        model(_input(*size))
    out = _with_grads(model, model, _input(*size))
    assert all(type(t) is Tensor and t.isfinite().all() for t in out)


@pytest.mark.parametrize("kind", [Attention, Strided, Blocked, Weights])
def test_meta(kind) -> None:
    with torch.device("meta"):
        assert kind(3, 2)(torch.empty(2, 14, 15, DIM)).shape == (2, 14, 15, DIM)
