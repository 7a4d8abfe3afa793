"""Attention within groups of tokens: every backend against full attention of one group after another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backbones.ops._dispatch import explain, use_backend
from backbones.ops.window import window_attention

BACKENDS = ["auto", "sdpa", "products", "reference"]
BATCH, GROUPS, TOKENS, HEADS, DIM = 2, 3, 4, 2, 3


def _inputs(width: int = DIM) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and a bias, which require grad."""
    torch.manual_seed(0)
    shapes = [(BATCH, GROUPS, TOKENS, HEADS, n) for n in (DIM, DIM, width)] + [(HEADS, TOKENS, TOKENS)]
    return tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)


def _masks() -> dict[str, Tensor | None]:
    rng = torch.Generator().manual_seed(1)
    tokens = torch.rand(BATCH, GROUPS, TOKENS, generator=rng) < 0.5
    tokens[..., 1] = True
    pairs = (torch.rand(1, GROUPS, TOKENS, TOKENS, generator=rng) < 0.5) | torch.eye(TOKENS, dtype=torch.bool)
    return {"none": None, "tokens": tokens, "pairs": pairs}


def _by_group(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, scale: float) -> Tensor:
    """Group by group and head by head."""
    out = torch.empty_like(v)
    allowed = torch.ones(1, 1, 1, TOKENS, dtype=torch.bool) if mask is None else mask
    allowed = (allowed if allowed.ndim == 4 else allowed[:, :, None]).expand(BATCH, GROUPS, TOKENS, TOKENS)
    for b in range(BATCH):
        for g in range(GROUPS):
            for h in range(HEADS):
                logits = q[b, g, :, h] @ k[b, g, :, h].T * scale
                logits = logits if bias is None else logits + bias[h]
                attn = logits.masked_fill(~allowed[b, g], float("-inf")).softmax(-1)
                out[b, g, :, h] = attn @ v[b, g, :, h]
    return out


@pytest.mark.parametrize("mask", ["none", "tokens", "pairs"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients(backend: str, with_bias: bool, mask: str) -> None:
    for width, scale in ((DIM, None), (5, 0.7)):
        q, k, v, bias = _inputs(width)
        wanted = [q, k, v] + ([bias] if with_bias else [])
        bias = bias if with_bias else None
        out = window_attention(q, k, v, bias, _masks()[mask], scale, backend)
        expected = _by_group(q, k, v, bias, _masks()[mask], DIM**-0.5 if scale is None else scale)
        torch.testing.assert_close(out, expected)
        grad = torch.randn_like(out)
        torch.testing.assert_close(torch.autograd.grad(out, wanted, grad), torch.autograd.grad(expected, wanted, grad))


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_gradcheck(backend: str) -> None:
    inputs = [x[:1].detach().requires_grad_() for x in _inputs()[:3]] + [_inputs()[3]]
    mask = _masks()["tokens"][:1]
    assert torch.autograd.gradcheck(lambda *x: window_attention(*x, mask, backend=backend), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16(backend: str) -> None:
    q, k, v, bias = _inputs()
    out = window_attention(*(x.detach().bfloat16() for x in (q, k, v)), bias, _masks()["pairs"], backend=backend)
    assert out.dtype == torch.bfloat16
    exact = window_attention(q, k, v, bias, _masks()["pairs"])
    torch.testing.assert_close(out.double(), exact, rtol=5e-2, atol=5e-2)


def test_choice() -> None:
    q, k, v, bias = _inputs()
    with explain() as decisions:
        window_attention(q, k, v)
        window_attention(q, k, v, bias)
        with use_backend("reference"):
            window_attention(q, k, v, bias)
    assert [(d.operator, d.backend) for d in decisions] == [
        ("window_attention", "sdpa"),
        ("window_attention", "products"),
        ("window_attention", "reference"),
    ]


def test_errors_name_the_shapes() -> None:
    q, k, v, bias = _inputs()
    with pytest.raises(ValueError, match="equal channels of q and k"):
        window_attention(q, k[..., :2], v)
    with pytest.raises(ValueError, match=r"\(2, 4, 4\), got \(2, 3, 4\)"):
        window_attention(q, k, v, bias[:, :3])
    with pytest.raises(ValueError, match="backend must be one of auto, sdpa, products, reference"):
        window_attention(q, k, v, backend="flash")
