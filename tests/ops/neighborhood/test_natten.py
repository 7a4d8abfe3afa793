"""The adapter to natten: what it hands over, when "auto" chooses it, and what it says when natten is absent.

natten's own kernels need a CUDA device, so the package is replaced by one with the documented signature of `na2d`,
which computes the definition. That the definition is natten's is tested in `test_stride`.
"""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from backbones.ops.neighborhood import natten as natten_backend
from backbones.ops.neighborhood import (
    neighborhood_attention,
    neighborhood_av,
    use_backend,
)


@pytest.fixture(autouse=True)
def _forget_the_library():
    natten_backend._library.cache_clear()
    natten_backend._device_has_kernels.cache_clear()
    yield
    natten_backend._library.cache_clear()
    natten_backend._device_has_kernels.cache_clear()


class Natten(ModuleType):
    """A natten whose na2d, with natten's order of arguments, is the definition of the operator."""

    HAS_LIBNATTEN = True

    def __init__(self) -> None:
        super().__init__("natten")
        self.calls = 0

    def na2d(self, query, key, value, kernel_size, stride=1, dilation=1, is_causal=False, scale=None):
        self.calls += 1
        if query.shape[-1] % 8:
            raise NotImplementedError("NATTEN could not find a suitable backend for this use case.")
        if query.is_cuda:
            return torch.empty_like(query)
        return neighborhood_attention(query, key, value, kernel_size, dilation, None, scale, "reference", stride)


@pytest.fixture
def natten(monkeypatch: pytest.MonkeyPatch) -> Natten:
    module = Natten()
    monkeypatch.setitem(sys.modules, "natten", module)
    return module


def _qkv(dim: int = 8) -> tuple[Tensor, ...]:
    return torch.randn(1, 21, 17, 3, 2, dim, generator=torch.Generator().manual_seed(0)).unbind(3)


def _cuda(shape: tuple[int, ...], dtype: torch.dtype = torch.float16) -> Tensor:
    """A tensor on a CUDA device that need not exist."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(shape, dtype=dtype, device="cuda")


@pytest.mark.parametrize(
    ("kernel", "dilation", "stride", "scale"),
    [(7, 1, 1, None), (5, 3, 2, 0.3), (5, 2, 5, None), ((3, 5), (4, 2), (2, 1), None), ((7, 3), (1, 3), (4, 3), 0.5)],
)
def test_arguments_are_handed_over(natten: Natten, kernel, dilation, stride, scale) -> None:
    q, k, v = _qkv()
    out = neighborhood_attention(q, k, v, kernel, dilation, scale=scale, backend="natten", stride=stride)
    expected = neighborhood_attention(q, k, v, kernel, dilation, scale=scale, backend="reference", stride=stride)
    assert natten.calls == 1
    torch.testing.assert_close(out, expected)


def test_autocast_casts_what_natten_gets(natten: Natten) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert neighborhood_attention(*_qkv(), 7, backend="natten").dtype == torch.bfloat16


def test_absent_natten_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "natten", None)  # import fails
    with pytest.raises(
        ImportError, match=r'backend="natten" needs the natten package: pip install "backbones\[natten\]"'
    ):
        neighborhood_attention(*_qkv(), 7, backend="natten")
    q = _cuda((1, 14, 14, 2, 32))
    assert not natten_backend.runs_fast(q, q, q, (7, 7))
    assert neighborhood_attention(*_qkv(), 7).isfinite().all()


def test_bias_and_inputs_that_natten_refuses(natten: Natten) -> None:
    with pytest.raises(ValueError, match="has no position bias: use"):
        neighborhood_attention(*_qkv(), 7, bias=torch.zeros(2, 13, 13), backend="natten")
    with pytest.raises(ValueError, match='does not take these inputs, use backend="auto": NATTEN could not find'):
        neighborhood_attention(*_qkv(5), 7, backend="natten")


def test_only_attention_has_a_natten_backend(natten: Natten) -> None:
    with pytest.raises(ValueError, match="backend must be one of auto, triton, cpu, tiled, reference, got 'natten'"):
        neighborhood_av(torch.zeros(1, 1, 9, 9, 9), torch.zeros(1, 1, 9, 9, 2), 3, backend="natten")
    with use_backend("natten"):
        attn, v = torch.rand(1, 1, 9, 9, 9), torch.rand(1, 1, 9, 9, 2)
        torch.testing.assert_close(neighborhood_av(attn, v, 3), neighborhood_av(attn, v, 3, backend="reference"))
    with pytest.raises(ValueError, match="triton, got 'naten'"), use_backend("naten"):
        pass


@pytest.mark.parametrize(
    ("dtype", "dim", "kernel", "libnatten", "capability", "fast"),
    [
        (torch.float16, 32, 7, True, (8, 0), True),
        (torch.bfloat16, 64, 3, True, (9, 0), True),
        (torch.float32, 8, 7, True, (6, 0), True),
        (torch.float64, 32, 7, True, (8, 0), False),
        (torch.float16, 12, 7, True, (8, 0), False),
        (torch.float16, 32, 1, True, (8, 0), False),
        (torch.float16, 32, 7, False, (8, 0), False),
        (torch.float16, 32, 7, True, (5, 2), False),
    ],
)
def test_auto_takes_natten_on_cuda_where_its_kernels_do(
    natten: Natten,
    monkeypatch: pytest.MonkeyPatch,
    dtype,
    dim: int,
    kernel: int,
    libnatten: bool,
    capability,
    fast: bool,
) -> None:
    natten.HAS_LIBNATTEN = libnatten
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("backbones.ops.neighborhood.triton.devices_have_kernels", lambda: False)

    class Tiled(Exception):
        pass

    def plan_axis(*args):
        raise Tiled

    monkeypatch.setattr("backbones.ops.neighborhood.tiled.plan_axis", plan_axis)
    q = _cuda((1, 14, 14, 2, dim), dtype)
    assert natten_backend.runs_fast(q, q, q, (kernel, kernel)) == fast
    if fast:
        assert neighborhood_attention(q, q, q, kernel).shape == q.shape
    else:
        with pytest.raises(Tiled):
            neighborhood_attention(q, q, q, kernel)
    assert natten.calls == int(fast)
    with pytest.raises(Tiled):  # natten takes no bias
        neighborhood_attention(q, q, q, kernel, bias=_cuda((2, 2 * kernel - 1, 2 * kernel - 1), dtype))
    neighborhood_attention(*_qkv(), 3)  # nor is it for the CPU
    assert natten.calls == int(fast)
