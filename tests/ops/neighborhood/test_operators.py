"""Neighborhood attention: the tiled form against the definition, the authors' operator and autograd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones.ops.neighborhood import (
    neighborhood_attention,
    neighborhood_av,
    neighborhood_bias,
    neighborhood_qk,
)
from tests.parity import parity

FIXTURE = parity.load(Path(__file__).parents[2] / "parity" / "fixtures" / "dinat" / "na2d-op.json.gz")

# (kernel_size, dilation, height, width): exactly K * d, one more, ragged groups, non-square, one, two and several tiles
CASES = [
    (3, 1, 3, 9),
    (3, 1, 9, 31),
    (3, 2, 6, 7),
    (3, 3, 20, 33),
    (3, 8, 61, 40),
    (5, 2, 31, 22),
    (7, 1, 7, 8),
    (7, 1, 14, 12),
    (7, 1, 28, 23),
    (7, 2, 14, 15),
    (7, 2, 45, 40),
    (7, 3, 64, 22),
    (7, 8, 56, 60),
    (11, 2, 22, 49),
    (13, 1, 14, 28),
    (13, 1, 41, 30),
    ((3, 5), (2, 3), 21, 32),
    (1, 1, 4, 5),
]


def _pair(x: int | tuple[int, int]) -> tuple[int, int]:
    return (x, x) if isinstance(x, int) else x


def _inputs(kernel, height: int, width: int, dtype=torch.float64, heads: int = 2, dim: int = 3) -> tuple[Tensor, ...]:
    """q, k, v as views of one tensor, and a position table; all require grad."""
    rng = torch.Generator().manual_seed(0)
    kh, kw = _pair(kernel)
    qkv = torch.randn(2, height, width, 3, heads, dim, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    rpb = torch.randn(heads, 2 * kh - 1, 2 * kw - 1, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    return qkv, rpb


@pytest.mark.parametrize("run", FIXTURE["runs"], ids=lambda r: f"{r['shape'][2:4]}k{r['kernel_size']}d{r['dilation']}")
@pytest.mark.parametrize("backend", ["cpu", "tiled", "reference"])
def test_equals_the_authors_operator(run: dict, backend: str) -> None:
    q, k, v = (
        torch.from_numpy(np.random.default_rng(run[n]["seed"]).standard_normal(run["shape"]).astype(np.float32))
        for n in "qkv"
    )
    rpb = None if run["rpb"] is None else torch.from_numpy(parity.fill_value("rpb", tuple(run["rpb"])))
    q, k, v = (x.permute(0, 2, 3, 1, 4) for x in (q, k, v))
    out = neighborhood_attention(q, k, v, run["kernel_size"], run["dilation"], rpb, run["scale"], backend=backend)
    out = out.permute(0, 3, 1, 2, 4)
    assert parity.worst_error(run["features"][0], out) < 1e-5
    corners = {
        "top_left": out[:, :, :3, :3],
        "top_right": out[:, :, :3, -3:],
        "bottom_left": out[:, :, -3:, :3],
        "bottom_right": out[:, :, -3:, -3:],
    }
    for name, corner in corners.items():
        assert parity.worst_error(run["corners"][name], corner) < 1e-5, name


@pytest.mark.parametrize(("kernel", "dilation", "height", "width"), CASES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("backend", ["cpu", "tiled"])
def test_attention_equals_reference(kernel, dilation, height: int, width: int, with_bias: bool, backend: str) -> None:
    qkv, rpb = _inputs(kernel, height, width)
    bias = rpb if with_bias else None
    wanted = [qkv, rpb] if with_bias else [qkv]
    out = neighborhood_attention(*qkv.unbind(3), kernel, dilation, bias, backend=backend)
    reference = neighborhood_attention(*qkv.unbind(3), kernel, dilation, bias, backend="reference")
    torch.testing.assert_close(out, reference, rtol=1e-9, atol=1e-11)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    ours, theirs = torch.autograd.grad(out, wanted, grad), torch.autograd.grad(reference, wanted, grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("kernel", "dilation", "height", "width"), CASES)
@pytest.mark.parametrize("backend", ["cpu", "tiled"])
def test_av_equals_reference(kernel, dilation, height: int, width: int, backend: str) -> None:
    rng = torch.Generator().manual_seed(0)
    slots = _pair(kernel)[0] * _pair(kernel)[1]
    attn = torch.randn(2, 2, height, width, slots, generator=rng, dtype=torch.float64).requires_grad_()
    v = torch.randn(2, 2, height, width, 3, generator=rng, dtype=torch.float64).requires_grad_()
    grad = torch.randn(v.shape, generator=rng, dtype=torch.float64)
    out = neighborhood_av(attn, v, kernel, dilation, backend=backend)
    reference = neighborhood_av(attn, v, kernel, dilation, backend="reference")
    torch.testing.assert_close(out, reference, rtol=1e-9, atol=1e-11)
    ours, theirs = torch.autograd.grad(out, [attn, v], grad), torch.autograd.grad(reference, [attn, v], grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("kernel", "dilation", "height", "width"), CASES)
def test_qk_equals_reference(kernel, dilation, height: int, width: int) -> None:
    rng = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 2, height, width, 3, generator=rng, dtype=torch.float64).requires_grad_() for _ in "qk")
    out = neighborhood_qk(q, k, kernel, dilation, backend="cpu")
    reference = neighborhood_qk(q, k, kernel, dilation, backend="reference")
    torch.testing.assert_close(out, reference, rtol=1e-9, atol=1e-11)
    grad = torch.randn(out.shape, generator=rng, dtype=torch.float64)
    ours, theirs = torch.autograd.grad(out, [q, k], grad), torch.autograd.grad(reference, [q, k], grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("kernel", "dilation", "height", "width"), [(3, 1, 7, 5), (5, 2, 11, 13), (7, 1, 7, 9)])
def test_bias_by_explicit_arithmetic(kernel: int, dilation: int, height: int, width: int) -> None:
    rpb = torch.randn(2, 2 * kernel - 1, 2 * kernel - 1, generator=torch.Generator().manual_seed(0))
    bias = neighborhood_bias(rpb, height, width, kernel, dilation).view(2, height, width, kernel, kernel)

    def row(i: int, slot: int, n: int) -> int:
        p, length = i // dilation, -(-(n - i % dilation) // dilation)
        start = min(max(p - (kernel - 1) // 2, 0), length - kernel)
        return start + slot - p + kernel - 1

    for i in range(height):
        for j in range(width):
            for a in range(kernel):
                for b in range(kernel):
                    expected = rpb[:, row(i, a, height), row(j, b, width)]
                    assert torch.equal(bias[:, i, j, a, b], expected), (i, j, a, b)


def test_av_of_softmax_of_qk_is_attention() -> None:
    """The operators and the bias helper agree."""
    qkv, rpb = _inputs(5, 12, 17)
    q, k, v = qkv.unbind(3)
    query, key, value = (x.permute(0, 3, 1, 2, 4) for x in (q, k, v))
    logits = neighborhood_qk(query * q.shape[-1] ** -0.5, key, 5) + neighborhood_bias(rpb, 12, 17, 5)
    out = neighborhood_av(logits.softmax(-1), value, 5).permute(0, 2, 3, 1, 4)
    torch.testing.assert_close(out, neighborhood_attention(q, k, v, 5, bias=rpb))


@pytest.mark.parametrize(("kernel", "dilation", "height", "width"), [(3, 1, 9, 4), (3, 2, 6, 7), (5, 1, 5, 6)])
@pytest.mark.parametrize("backend", ["cpu", "tiled"])
def test_gradcheck(kernel: int, dilation: int, height: int, width: int, backend: str) -> None:
    qkv, rpb = _inputs(kernel, height, width, heads=1, dim=1)
    q, k, v = (x[:1].detach().requires_grad_() for x in qkv.unbind(3))
    assert torch.autograd.gradcheck(
        lambda q, k, v, b: neighborhood_attention(q, k, v, kernel, dilation, b, backend=backend), (q, k, v, rpb)
    )
    attn = torch.randn(1, 1, height, width, kernel * kernel, dtype=torch.float64, requires_grad=True)
    values = v.detach().permute(0, 3, 1, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, v: neighborhood_av(a, v, kernel, dilation, backend=backend), (attn, values)
    )


@pytest.mark.parametrize(("kernel", "dilation", "size"), [(7, 1, 30), (7, 2, 15), (5, 3, 17)])
@pytest.mark.parametrize("backend", ["cpu", "tiled"])
def test_bfloat16(kernel: int, dilation: int, size: int, backend: str) -> None:
    """bfloat16 gives bfloat16 within its rounding, also with a float32 table, and finite gradients."""
    qkv, rpb = _inputs(kernel, size, size, torch.float32, dim=8)
    low = qkv.detach().bfloat16().requires_grad_()
    out = neighborhood_attention(*low.unbind(3), kernel, dilation, rpb, backend=backend)
    assert out.dtype == torch.bfloat16
    exact = neighborhood_attention(*low.float().unbind(3), kernel, dilation, rpb, backend="reference")
    torch.testing.assert_close(out.float(), exact, rtol=3e-2, atol=3e-2)
    grads = torch.autograd.grad(out.float().square().sum(), [low, rpb])
    wanted = torch.autograd.grad(exact.square().sum(), [low, rpb])
    for ours, theirs in zip(grads, wanted):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).norm() / theirs.norm() < 3e-2


def test_autocast_gives_bfloat16() -> None:
    qkv, rpb = _inputs(7, 20, 20, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = neighborhood_attention(*qkv.unbind(3), 7, bias=rpb)
    assert out.dtype == torch.bfloat16
    exact = neighborhood_attention(*qkv.unbind(3), 7, bias=rpb)
    torch.testing.assert_close(out.float(), exact, rtol=5e-2, atol=5e-2)


def test_errors_name_the_remedy() -> None:
    q = torch.zeros(1, 13, 20, 2, 4)
    with pytest.raises(ValueError, match=r"13 x 20 is too small .* pad it to at least 14 x 14"):
        neighborhood_attention(q, q, q, 7, 2)
    with pytest.raises(ValueError, match="odd"):
        neighborhood_attention(q, q, q, 4)
    with pytest.raises(ValueError, match=r"\(2, 13, 13\), got \(2, 7, 7\)"):
        neighborhood_attention(q, q, q, 7, bias=torch.zeros(2, 7, 7))
    with pytest.raises(ValueError, match="one shape"):
        neighborhood_attention(q, q[:, :12], q, 7)
    with pytest.raises(ValueError, match="backend must be one of"):
        neighborhood_attention(q, q, q, 7, backend="flash")
    with pytest.raises(ValueError, match=r"\(1, 2, 20, 13, 25\), got \(1, 2, 20, 13, 9\)"):
        neighborhood_av(torch.zeros(1, 2, 20, 13, 9), torch.zeros(1, 2, 20, 13, 4), 5)
