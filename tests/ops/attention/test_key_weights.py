"""Attention with the weights of its keys against its definition, head by head."""

from __future__ import annotations

import pytest
import torch

from backbones.ops.attention import attention_and_key_weights, key_weights


def _reference(q, k, v, real=None):
    batch, heads, count, _ = q.shape
    out, given = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype), torch.zeros(batch, k.shape[2], dtype=q.dtype)
    for b in range(batch):
        keys = range(k.shape[2]) if real is None else real[b].nonzero().flatten().tolist()
        for h in range(heads):
            weights = (q[b, h] @ k[b, h, keys].T * q.shape[3] ** -0.5).softmax(-1)
            out[b, h] = weights @ v[b, h, keys]
            rows = weights if real is None else weights[real[b]]
            given[b, keys] += rows.detach().sum(0) / (heads * count)
    return out, given


@pytest.mark.parametrize("chunk", [1 << 22, 40, 1])
@pytest.mark.parametrize("gradients", [True, False])
def test_both_results_and_gradients(chunk, gradients, monkeypatch):
    monkeypatch.setattr(key_weights, "CHUNK", chunk)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, c, dtype=torch.float64, requires_grad=True) for n, c in ((7, 4), (5, 4), (5, 6)))
    with torch.set_grad_enabled(gradients):
        found = attention_and_key_weights(q, k, v)
    expected = _reference(q, k, v)
    torch.testing.assert_close(found, expected)
    assert not found[1].requires_grad
    torch.testing.assert_close(found[1].sum(1), torch.ones(2, dtype=torch.float64))
    if gradients:
        weight = torch.randn_like(expected[0])
        grads = [torch.autograd.grad((out * weight).sum(), (q, k, v)) for out, _ in (found, expected)]
        torch.testing.assert_close(*grads)


def test_padding_neither_attends_nor_is_attended_to():
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 6, 4, dtype=torch.float64) for _ in range(3))
    real = torch.rand(3, 6) < 0.6
    real[:, 0] = True
    out, given = attention_and_key_weights(q, k, v, real)
    expected, share = _reference(q, k, v, real)
    torch.testing.assert_close((out, given), (expected, share))
    assert not given[~real].any()


def test_weights_of_half_precision_are_summed_in_single():
    q, k, v = (torch.randn(1, 1, 300, 4).bfloat16() for _ in range(3))
    out, given = attention_and_key_weights(q, k, v)
    assert out.dtype == torch.bfloat16 and given.dtype == torch.float32
