"""Strided and blocked neighborhood attention: natten's definition, all backends, gradients and speed of form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.layers.attention.neighborhood import NeighborhoodAttention2d
from backbones.ops.neighborhood import neighborhood_attention, neighborhood_bias
from backbones.ops.neighborhood.cpu_plan import spans
from backbones.ops.neighborhood.tiled import axis_offsets, plan_axis

BACKENDS = ["cpu", "tiled"]

# (size, kernel, dilation, stride) and the first key of the window of every position, as natten 0.21.7's na1d has them.
NATTEN_WINDOWS = [
    ((14, 5, 1, 2), [0, 0, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 9, 9]),
    ((14, 5, 1, 3), [0, 0, 0, 2, 2, 2, 5, 5, 5, 8, 8, 8, 9, 9]),
    ((14, 5, 1, 4), [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 9, 9]),
    ((14, 5, 1, 5), [0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 9, 9, 9, 9]),
    ((15, 7, 1, 7), [0] * 7 + [7] * 7 + [8]),
    ((16, 5, 2, 3), [0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 6, 7, 6, 7]),
    ((17, 3, 2, 3), [0, 1, 0, 1, 0, 1, 6, 7, 6, 7, 6, 7, 12, 11, 12, 11, 12]),
    ((17, 5, 1, 4), [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 12]),
]

# (kernel, dilation, height, width): exactly K * d, one more, ragged groups, non-square, few and many tiles
MAPS = [
    (3, 1, 3, 10),
    (3, 2, 7, 6),
    (3, 3, 20, 33),
    (5, 1, 5, 6),
    (5, 1, 31, 20),
    (5, 2, 21, 12),
    (7, 1, 7, 8),
    (7, 1, 14, 21),
    (7, 1, 29, 16),
    (7, 2, 14, 31),
    (7, 3, 43, 21),
    (13, 1, 26, 14),
    (13, 1, 41, 30),
]
GRID = [(*case, stride) for case in MAPS for stride in range(2, case[0] + 1) if case[0] < 13 or stride in (2, 5, 8, 13)]
GRID += [((3, 5), (2, 1), 13, 22, (2, 5)), ((5, 3), (1, 2), 9, 7, (1, 3)), ((7, 5), (1, 3), 12, 17, (4, 1))]


def _pair(x: int | tuple[int, int]) -> tuple[int, int]:
    return (x, x) if isinstance(x, int) else x


def _inputs(kernel, height: int, width: int, heads: int = 2, dim: int = 3) -> tuple[Tensor, Tensor]:
    """q, k, v as one tensor, and a position table, in double precision; both require grad."""
    rng = torch.Generator().manual_seed(0)
    kh, kw = _pair(kernel)
    qkv = torch.randn(2, height, width, 3, heads, dim, generator=rng, dtype=torch.float64).requires_grad_()
    rpb = torch.randn(heads, 2 * kh - 1, 2 * kw - 1, generator=rng, dtype=torch.float64).requires_grad_()
    return qkv, rpb


@pytest.mark.parametrize(("case", "firsts"), NATTEN_WINDOWS)
@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_windows_are_nattens(case: tuple[int, int, int, int], firsts: list[int], backend: str) -> None:
    size, kernel, dilation, stride = case
    identity = torch.eye(size, dtype=torch.float64)
    seen = set()
    for v in (identity.view(1, size, 1, 1, size), identity.view(1, 1, size, 1, size)):
        axis = 1 if v.shape[1] == size else 2
        pairs = [(x, 1) if axis == 1 else (1, x) for x in (kernel, dilation, stride)]
        q = torch.zeros_like(v)
        out = neighborhood_attention(q, q, v, pairs[0], pairs[1], stride=pairs[2], backend=backend).view(size, size)
        expected = torch.zeros(size, size, dtype=torch.float64)
        for i, first in enumerate(firsts):
            expected[i, first : first + kernel * dilation : dilation] = 1 / kernel
        torch.testing.assert_close(out, expected)
        seen.add(axis)
    assert seen == {1, 2}


@pytest.mark.parametrize(("kernel", "dilation", "height", "width", "stride"), GRID)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_reference(kernel, dilation, height: int, width: int, stride, backend: str) -> None:
    qkv, rpb = _inputs(kernel, height, width)
    for bias in (rpb, None):
        wanted = [qkv] if bias is None else [qkv, rpb]
        out, reference = (
            neighborhood_attention(*qkv.unbind(3), kernel, dilation, bias, stride=stride, backend=name)
            for name in (backend, "reference")
        )
        torch.testing.assert_close(out, reference, rtol=1e-9, atol=1e-11)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
        ours, theirs = torch.autograd.grad(out, wanted, grad), torch.autograd.grad(reference, wanted, grad)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("kernel", "dilation", "size", "stride"), [(3, 1, 7, 2), (3, 2, 7, 3), (5, 1, 6, 4)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(kernel: int, dilation: int, size: int, stride: int, with_bias: bool, backend: str) -> None:
    qkv, rpb = _inputs(kernel, size, size, heads=1, dim=1)
    inputs = [x[:1].detach().requires_grad_() for x in qkv.unbind(3)] + ([rpb] if with_bias else [])

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return neighborhood_attention(q, k, v, kernel, dilation, bias, stride=stride, backend=backend)

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("backend", ["auto", *BACKENDS, "reference"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_blocked_is_window_attention(backend: str, dilation: int) -> None:
    """With stride = kernel on a map that divides, each window attends to itself, with Swin's table of positions."""
    kernel, tiles = 5, 3
    size = kernel * tiles * dilation
    qkv, rpb = _inputs(kernel, size, size)
    out = neighborhood_attention(*qkv.unbind(3), kernel, dilation, rpb, stride=kernel, backend=backend)

    def windows(x: Tensor) -> Tensor:  # (B, windows, heads, K * K, C)
        x = x.unflatten(2, (tiles, kernel, dilation)).unflatten(1, (tiles, kernel, dilation))
        return x.permute(0, 1, 3, 4, 6, 7, 2, 5, 8).flatten(6, 7).flatten(1, 4)

    offset = torch.arange(kernel)
    offset = offset[None] - offset[:, None] + kernel - 1  # key minus query
    bias = rpb[:, offset[:, None, :, None], offset[None, :, None, :]].flatten(3).flatten(1, 2)
    expected = F.scaled_dot_product_attention(*map(windows, qkv.unbind(3)), attn_mask=bias)
    torch.testing.assert_close(windows(out), expected)


def test_stride_one_is_sliding() -> None:
    qkv, rpb = _inputs(7, 20, 15)
    for backend in ("auto", *BACKENDS, "reference"):
        plain = neighborhood_attention(*qkv.unbind(3), 7, bias=rpb, backend=backend)
        assert torch.equal(neighborhood_attention(*qkv.unbind(3), 7, 1, rpb, None, backend, 1), plain)
    assert not torch.allclose(plain, neighborhood_attention(*qkv.unbind(3), 7, bias=rpb, stride=2))


@pytest.mark.parametrize(("kernel", "dilation", "size", "stride"), [(5, 1, 11, 4), (7, 2, 17, 7)])
def test_bias_rows_are_key_minus_query(kernel: int, dilation: int, size: int, stride: int) -> None:
    rpb = torch.arange(2.0 * kernel - 1).view(1, -1, 1).expand(-1, -1, 2 * kernel - 1)  # the row itself
    bias = neighborhood_bias(rpb, size, size, kernel, dilation, stride).view(size, size, kernel, kernel)
    identity = torch.eye(size).view(1, size, 1, 1, size)
    window = neighborhood_attention(
        *[torch.zeros_like(identity)] * 2, identity, (kernel, 1), (dilation, 1), stride=(stride, 1)
    )
    for i in range(size):
        keys = window[0, i, 0, 0].nonzero().flatten()
        assert torch.equal(bias[i, 0, :, 0], (keys - i).div(dilation) + kernel - 1)


@pytest.mark.parametrize(("size", "kernel", "dilation"), [(56, 7, 1), (56, 7, 8), (20, 5, 2), (26, 13, 1)])
def test_blocked_is_dense_without_copies(size: int, kernel: int, dilation: int) -> None:
    """Where the map divides, both tilings cut it into its windows: no masked product, no key read twice."""
    axis = plan_axis(size, kernel, dilation, kernel)
    assert axis.dense and axis.tile == axis.step == axis.block == kernel and axis.tiles * kernel == axis.length
    (span,) = spans(size, kernel, dilation, kernel)
    assert span.dense and span.tile == span.block == kernel and span.tiles * kernel * dilation == size


@pytest.mark.parametrize("kernel", [3, 7, 13, 45])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("floor", [6, 8])
def test_windows_lie_in_the_blocks_of_their_tiles(kernel: int, dilation: int, floor: int) -> None:
    for size in range(kernel * dilation, kernel * dilation + 40, 3 if kernel < 45 else 9):
        for stride in {2, 3, kernel // 2 + 1, kernel - 1, kernel}:
            axis = plan_axis(size, kernel, dilation, stride, floor)
            _, start, key = axis_offsets(axis, torch.device("cpu"))
            assert (key[..., :1] <= start).all() and (start + kernel - 1 <= key[..., -1:]).all(), (size, stride)


@pytest.mark.parametrize("size", [28, 50, 56, 76])
@pytest.mark.parametrize("kernel", [5, 7, 13])
def test_strides_do_less_work_than_sliding(size: int, kernel: int) -> None:
    """Products of queries and keys on an axis: with a large stride both tilings need fewer than without one, with a
    small one about as many."""

    def work(stride: int) -> tuple[int, int]:
        axis = plan_axis(size, kernel, 1, stride)
        return sum(
            s.tiles * s.tile * s.block for s in spans(size, kernel, 1, stride)
        ), axis.tiles * axis.tile * axis.block

    exact, padded = work(1)
    for stride in range(2, kernel + 1):
        assert work(stride)[0] <= (0.9 if stride > kernel // 2 + 1 else 1.1) * exact, stride
        assert work(stride)[1] <= (0.9 if 2 * stride > kernel else 1.2) * padded, stride


@pytest.mark.parametrize("stride", [2, 5])
@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_and_autocast(stride: int, backend: str) -> None:
    qkv, rpb = _inputs(5, 13, 15, dim=8)
    qkv, rpb = qkv.detach().float().requires_grad_(), rpb.detach().float().requires_grad_()
    for bias in (rpb, None):
        exact = neighborhood_attention(*qkv.unbind(3), 5, 1, bias, stride=stride, backend="reference")
        with torch.autocast("cpu", torch.bfloat16):
            out = neighborhood_attention(*qkv.unbind(3), 5, 1, bias, stride=stride, backend=backend)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), exact, rtol=5e-2, atol=5e-2)
        wanted = [qkv] if bias is None else [qkv, bias]
        ours = torch.autograd.grad(out.float().square().sum(), wanted)
        for a, b in zip(ours, torch.autograd.grad(exact.square().sum(), wanted)):
            assert a.dtype == torch.float32 and (a - b).norm() / b.norm() < 3e-2


def test_module_takes_a_stride() -> None:
    torch.manual_seed(0)
    module = NeighborhoodAttention2d(8, 2, 5, dilation=2, stride=3).eval()
    x = torch.randn(1, 17, 9, 8)  # narrower than K * d: padded to 10
    q, k, v = module.qkv(F.pad(x, (0, 0, 0, 1))).unflatten(-1, (3, 2, 4)).unbind(3)
    out = neighborhood_attention(q, k, v, 5, 2, module.rpb, stride=3, backend="reference")
    torch.testing.assert_close(module(x), module.proj(out.flatten(3)[:, :, :9]))
    assert "stride=3" in repr(module)
    with pytest.raises(ValueError, match="stride must be 1 to kernel_size 5, not 6"):
        NeighborhoodAttention2d(8, 2, 5, stride=6)


@pytest.mark.parametrize("stride", [0, 6, (1, 6), (1, 2, 3)])
def test_strides_outside_of_the_kernel_are_refused(stride) -> None:
    q = torch.zeros(1, 12, 12, 1, 4)
    with pytest.raises(ValueError, match=r"stride must be 1 to the kernel size 5.*got "):
        neighborhood_attention(q, q, q, 5, stride=stride)
