"""Attention to routed regions: every backend against the reference, which is compared with loops over regions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backbones.ops._dispatch import explain, use_backend
from backbones.ops.routing import chunked, products, routed_attention

BACKENDS = ["dense", "chunked", "gathered"]
HEADS, DIM, WIDTH = 2, 4, 6


def _inputs(topk: int, keys: int, regions: int = 12, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(batch, regions, 4, DIM, generator=rng, dtype=torch.float64).requires_grad_()
    kv = torch.randn(batch, regions, keys, DIM + WIDTH, generator=rng, dtype=torch.float64).requires_grad_()
    return q, kv, torch.rand(batch, regions, regions, generator=rng).topk(topk, -1).indices


def _check(out: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(out, expected)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    torch.testing.assert_close(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad))


@pytest.mark.parametrize("weighted", [False, True])
def test_reference_region_by_region(weighted: bool) -> None:
    q, kv, index = _inputs(3, 2)
    weight = torch.rand(index.shape, dtype=torch.float64, requires_grad=True) if weighted else None
    rows = []
    for b in range(2):
        for r, picked in enumerate(index[b]):
            factor = 1 if weight is None else weight[b, r].view(-1, 1, 1)
            tokens = (kv[b, picked] * factor).flatten(0, 1)
            for h in range(HEADS):
                c, d = DIM // HEADS, WIDTH // HEADS
                key, value = tokens[:, h * c : (h + 1) * c], tokens[:, DIM + h * d : DIM + (h + 1) * d]
                rows.append((q[b, r, :, h * c : (h + 1) * c] * c**-0.5 @ key.T).softmax(-1) @ value)
    expected = torch.stack(rows).view(2, 12, HEADS, 4, -1).transpose(2, 3).flatten(3)
    out = routed_attention(q, kv, index, HEADS, weight=weight, backend="reference")
    _check(out, expected, [q, kv, weight] if weighted else [q, kv])


@pytest.mark.parametrize("topk", [1, 3, 12])
@pytest.mark.parametrize("keys", [4, 2])
@pytest.mark.parametrize("chunk", [1, 5])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_reference(backend: str, chunk: int, topk: int, keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, kv, index = _inputs(topk, keys)
    monkeypatch.setattr(chunked, "CHUNK_CPU", chunk * topk * keys * (DIM + WIDTH))
    for scale in (None, 0.3):
        out, expected = (routed_attention(q, kv, index, HEADS, scale, backend=b) for b in (backend, "reference"))
        _check(out, expected, [q, kv])


def test_weights_equal_reference() -> None:
    q, kv, index = _inputs(3, 2)
    weight = torch.rand(index.shape, dtype=torch.float64, requires_grad=True)
    with explain() as decisions:
        out = routed_attention(q, kv, index, HEADS, weight=weight)
    assert decisions[0].backend == "gathered" and decisions[0].reasons["chunked"] == ["does not weigh regions"]
    _check(out, routed_attention(q, kv, index, HEADS, weight=weight, backend="reference"), [q, kv, weight])


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_gradcheck(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_CPU", 64)
    q, kv, index = _inputs(2, 2, regions=6, batch=1)
    q, kv = q.detach()[..., :2].requires_grad_(), kv.detach()[..., :4].requires_grad_()
    assert torch.autograd.gradcheck(lambda q, kv: routed_attention(q, kv, index, 2, backend=backend), (q, kv))


def test_chunks_keep_no_gathered_copy() -> None:
    """The graph holds the inputs and the routed indices, nothing k times as large."""
    q, kv, index = _inputs(8, 4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        routed_attention(q, kv, index, HEADS, backend="chunked")
    assert kept and max(kept) <= kv.numel()


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(topk: int, **kwargs) -> str:
        q, kv, index = _inputs(topk, 4)
        with explain() as decisions:
            routed_attention(q, kv, index, HEADS, **kwargs)
        return decisions[0].backend

    assert backend(3) == "dense"
    assert backend(2) == "chunked", "most regions would be masked"
    assert backend(3, backend="gathered") == "gathered"
    monkeypatch.setattr(products, "MOST_TOKENS", 40)
    assert backend(3) == "chunked" and backend(1) == "gathered"
    with use_backend("reference"):
        assert backend(3) == "reference"


def test_errors_name_the_shapes() -> None:
    q, kv, index = _inputs(3, 4)
    with pytest.raises(ValueError, match="equal regions"):
        routed_attention(q, kv[:, :5], index, HEADS)
    with pytest.raises(ValueError, match=r"index must have shape \(B, R, k\)"):
        routed_attention(q, kv, index[:, :5], HEADS)
    with pytest.raises(ValueError, match="weight must have the shape of index"):
        routed_attention(q, kv, index, HEADS, weight=index[..., :1])
    with pytest.raises(ValueError, match="num_heads 3 must divide"):
        routed_attention(q, kv, index, 3)
    with pytest.raises(ValueError, match='backend="dense" does not weigh regions: use backend="auto"'):
        routed_attention(q, kv, index, HEADS, weight=index.double(), backend="dense")
