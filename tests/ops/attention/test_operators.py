"""Attention with a learned bias: every backend against the reference, which is compared with plain products."""

from __future__ import annotations

import pytest
import torch

from backbones.ops._dispatch import explain
from backbones.ops.attention import biased_attention

BACKENDS = ["auto", "sdpa", "products", "reference"]


@pytest.mark.parametrize("bias_shape", [None, (1, 2, 6, 4), (3, 1, 6, 4), (2, 6, 4)])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients(backend, bias_shape, learned):
    torch.manual_seed(0)
    shapes = {"q": (3, 2, 6, 5), "k": (3, 2, 4, 5), "v": (3, 2, 4, 7)}
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes.values()]
    bias = None
    if bias_shape is not None:
        bias = torch.randn(bias_shape, dtype=torch.float64, requires_grad=learned)
        inputs += [bias] if learned else []
    q, k, v = inputs[:3]
    scores = q @ k.mT / 5**0.5
    expected = (scores if bias is None else scores + bias).softmax(-1) @ v
    weight = torch.randn_like(expected)
    got = biased_attention(q, k, v, bias, backend=backend)
    results = [[out, *torch.autograd.grad((out * weight).sum(), inputs)] for out in (got, expected)]
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_gradcheck(backend):
    torch.manual_seed(0)
    q, k, v, bias = (torch.randn(1, 2, 3, n, dtype=torch.float64, requires_grad=True) for n in (2, 2, 4, 3))
    assert torch.autograd.gradcheck(lambda *x: biased_attention(*x, scale=0.3, backend=backend), (q, k, v, bias))


def test_choice():
    q = torch.randn(1, 2, 6, 8)
    bias = torch.randn(2, 6, 6)
    with explain() as decisions:
        biased_attention(q, q, q)
        biased_attention(q, q, q, bias)
        biased_attention(q, q, q, bias.requires_grad_())
        with torch.no_grad():
            biased_attention(q, q, q, bias)
        biased_attention(q, q, q[..., :4])
        biased_attention(q.bfloat16(), q.bfloat16(), q.bfloat16()[..., :4])
    assert [d.backend for d in decisions] == ["sdpa", "sdpa", "products", "sdpa", "products", "sdpa"]
    assert decisions[2].reasons == {"sdpa": ["has no fused gradient of the bias on CPU"]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bias_may_be_of_another_type(backend):
    q = torch.randn(1, 2, 6, 8, dtype=torch.bfloat16)
    bias = torch.randn(1, 2, 6, 6, requires_grad=True)
    out = biased_attention(q, q, q, bias, backend=backend)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert bias.grad.isfinite().all()


@pytest.mark.parametrize("bias", [None, "fixed", "learned"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_keeps_the_mean(backend, bias):
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 4000, 4)
    v = torch.ones(1, 1, 4000, 1)
    table = None if bias is None else torch.zeros(1, 1, 2, 4000, requires_grad=bias == "learned")
    out = biased_attention(q, k, v, table, dropout=0.25, backend=backend)
    assert not torch.equal(out, biased_attention(q, k, v, table, dropout=0.25, backend=backend)), "drawn anew"
    torch.testing.assert_close(out, torch.ones_like(out), rtol=0, atol=0.2)
    torch.testing.assert_close(biased_attention(q, k, v, table, backend=backend), torch.ones_like(out))
