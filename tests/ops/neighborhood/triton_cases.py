"""What Triton's kernels compute, against the definition: on a CUDA device, or on CPU where TRITON_INTERPRET=1 is set.

Triton reads the variable once, when it is imported, so that these tests need a process of their own:
`test_triton` starts it. On a machine with a CUDA device they can also be run by themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from backbones.ops.neighborhood import neighborhood_attention, neighborhood_av, neighborhood_qk
from backbones.ops.neighborhood import triton as triton_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

Pair = tuple[int, int]


def _normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype).requires_grad_()


def _results(call: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The output, and gradients with respect to the inputs."""
    out = call(*inputs)
    grad = _normal(*out.shape, dtype=out.dtype, seed=9)
    return [out, *torch.autograd.grad(out, inputs, grad)]


def _compare(call: Callable[..., Tensor], inputs: tuple[Tensor, ...], **tolerances: float) -> None:
    """Triton's results against the definition in double precision."""
    ours = _results(lambda *x: call(*x, "triton"), inputs)
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    for ours_, theirs in zip(ours, _results(lambda *x: call(*x, "reference"), exact), strict=True):
        torch.testing.assert_close(ours_.double(), theirs, **(tolerances or {"rtol": 1e-5, "atol": 3e-5}))


def _attend(kernel: Pair, dilation: Pair, stride: Pair, scale: float | None = None) -> Callable[..., Tensor]:
    """From one qkv projection, and a table or none, to the output; the views have no strides of their own."""

    def call(qkv: Tensor, *rest) -> Tensor:
        *bias, backend = rest
        return neighborhood_attention(*qkv.unbind(3), kernel, dilation, *(bias or [None]), scale, backend, stride)

    return call


@pytest.mark.parametrize(
    ("height", "width", "heads", "dim", "kernel", "dilation", "stride"),
    [
        (9, 11, 2, 8, (3, 3), (1, 1), (1, 1)),
        (17, 18, 1, 20, (7, 5), (1, 1), (1, 1)),
        (20, 17, 1, 16, (7, 5), (2, 3), (1, 1)),
        (17, 23, 1, 31, (9, 9), (1, 1), (1, 1)),
        (13, 13, 1, 16, (13, 13), (1, 1), (1, 1)),
        (22, 19, 1, 24, (5, 7), (1, 2), (3, 7)),
        (22, 19, 1, 16, (7, 7), (1, 1), (2, 4)),
    ],
)
@pytest.mark.parametrize("biased", [True, False])
def test_attention(height, width, heads, dim, kernel, dilation, stride, biased: bool) -> None:
    inputs = (_normal(heads, height, width, 3, heads, dim),)
    if biased:
        inputs += (_normal(heads, 2 * kernel[0] - 1, 2 * kernel[1] - 1, seed=1),)
    _compare(_attend(kernel, dilation, stride, 0.3), inputs)


@pytest.mark.parametrize(
    ("height", "width", "heads", "dim", "kernel", "dilation"),
    [
        (9, 17, 2, 8, (5, 5), (1, 1)),
        (14, 15, 1, 20, (13, 13), (1, 1)),
        (30, 17, 1, 16, (13, 13), (1, 1)),
        (20, 17, 1, 40, (3, 5), (2, 3)),
    ],
)
def test_product(height, width, heads, dim, kernel, dilation) -> None:
    weights = _normal(heads, heads, height, width, kernel[0] * kernel[1])
    # Channels last in memory, as ContMix has them.
    values = _normal(heads, height, width, heads, dim, seed=1)

    def call(weights: Tensor, values: Tensor, backend: str) -> Tensor:
        return neighborhood_av(weights, values.permute(0, 3, 1, 2, 4), kernel, dilation, backend)

    _compare(call, (weights, values))


@pytest.mark.parametrize(
    ("height", "width", "dim", "kernel", "dilation"),
    [(9, 17, 24, (3, 3), (1, 1)), (20, 17, 40, (3, 5), (2, 3))],
)
def test_scores(height, width, dim, kernel, dilation) -> None:
    q, k = (_normal(2, height, width, 2, dim, seed=seed) for seed in (0, 1))

    def call(q: Tensor, k: Tensor, backend: str) -> Tensor:
        return neighborhood_qk(*(x.permute(0, 3, 1, 2, 4) for x in (q, k)), kernel, dilation, backend)

    _compare(call, (q, k))


@pytest.mark.parametrize("dtype", [torch.float16] + [torch.bfloat16] * (DEVICE == "cuda"))
def test_half_precision(dtype: torch.dtype) -> None:
    tolerances = {"rtol": 0.02, "atol": 0.02 if dtype == torch.float16 else 0.1}
    qkv, table = _normal(1, 17, 9, 3, 1, 16, dtype=dtype), _normal(1, 13, 13, seed=1)
    _compare(_attend((7, 7), (1, 1), (1, 1)), (qkv, table), **tolerances)
    weights, values = torch.rand(1, 1, 9, 15, 25, device=DEVICE), _normal(1, 1, 9, 15, 16, dtype=dtype)
    weights = weights.softmax(-1).to(dtype).requires_grad_()
    _compare(lambda w, v, backend: neighborhood_av(w, v, 5, 1, backend), (weights, values), **tolerances)


def test_autocast_keeps_the_table() -> None:
    qkv, table = _normal(1, 9, 9, 3, 1, 16), _normal(1, 5, 5, seed=1)
    with torch.autocast(DEVICE, torch.float16):
        out = neighborhood_attention(*qkv.unbind(3), 3, 1, table, backend="triton")
        weights = neighborhood_av(_normal(1, 1, 9, 9, 9), qkv[:, None, :, :, 0, 0], 3, backend="triton")
    grads = torch.autograd.grad(out.float().square().sum(), (qkv, table))
    assert out.dtype == weights.dtype == torch.float16
    assert [g.dtype for g in grads] == [torch.float32] * 2 and all(g.abs().sum() > 0 for g in grads)


def test_only_wanted_gradients_of_tables_are_computed() -> None:
    qkv, table = _normal(1, 9, 9, 3, 1, 16), _normal(1, 5, 5, seed=1).detach()
    _compare(lambda x, backend: _attend((3, 3), (1, 1), (1, 1))(x, table.to(x.dtype), backend), (qkv,))


def test_results_are_deterministic() -> None:
    inputs = (_normal(1, 17, 9, 3, 2, 16), _normal(2, 9, 9, seed=1))

    def call(*x: Tensor) -> Tensor:
        return _attend((5, 5), (1, 1), (1, 1))(*x, "triton")

    for first, second in zip(_results(call, inputs), _results(call, inputs), strict=True):
        assert torch.equal(first, second)


class Mixer(nn.Module):
    """Both operators, one after the other, as "auto" chooses them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.taps = nn.Linear(16, 48), nn.Linear(16, 9)
        self.table = nn.Parameter(torch.randn(1, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(3, (3, 1, 16)).unbind(3)
        x = neighborhood_attention(q, k, v, 3, 1, self.table)
        weights = self.taps(x.flatten(3)).softmax(-1)[:, None]
        return neighborhood_av(weights, x.permute(0, 3, 1, 2, 4), 3)


def test_graph_holds_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_backend._Triton, "unsuitable_reasons", lambda self, inputs: [])
    torch.manual_seed(0)
    model, names = Mixer().to(DEVICE), set()

    def backend(graph: torch.fx.GraphModule, inputs):
        names.update(str(node.target) for node in graph.graph.nodes)
        return graph

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    x = _normal(2, 9, 11, 16)
    assert torch.equal(compiled(x), model(x))
    assert {"backbones.neighborhood_attention.default", "backbones.neighborhood_av.default"} <= names
    ahead = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for height, width in ((9, 11), (12, 10)):
        x = _normal(2, height, width, 16)
        inputs = (x, *model.parameters())
        for ours, theirs in zip(
            _results(lambda x, *_: ahead(x), inputs), _results(lambda x, *_: model(x), inputs), strict=True
        ):
            torch.testing.assert_close(ours, theirs)


def test_operators_are_what_torch_expects() -> None:
    attention = (*_normal(3, 1, 9, 9, 1, 16).unbind(0), _normal(1, 5, 5), [3, 3], [1, 1], [1, 1], 0.25)
    torch.library.opcheck(triton_backend._attention, attention)
    product = (_normal(1, 1, 9, 9, 9), _normal(1, 1, 9, 9, 16), [3, 3], [1, 1])
    torch.library.opcheck(triton_backend._product, product)
    scores = (*_normal(2, 1, 1, 9, 9, 16).unbind(0), [3, 3], [1, 1])
    torch.library.opcheck(triton_backend._scores, scores)
