"""Fused modules compute what the modules compute, and fuse where they may."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.layers.conv.basic import ConvMlp, ResidualDepthwiseConv
from backbones.layers.conv.mbconv import Conv2dSame
from backbones.layers.norm import GlobalResponseNorm
from backbones.layers.pointwise import GELUTanh, Linear
from backbones.layers.squeeze_excite import SqueezeExcite
from backbones.ops import fusion
from backbones.ops.fusion import fused


def stirred(module: nn.Module) -> nn.Module:
    """Random parameters and statistics, in evaluation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value.copy_(1 + 0.2 * noise.abs() if name.endswith("running_var") else 0.4 * noise)
    return module.eval()


def called(*modules: nn.Module):
    def run(x: torch.Tensor) -> torch.Tensor:
        for module in modules:
            x = module(x)
        return x

    return run


PRODUCTS = {
    "conv": lambda: nn.Conv2d(6, 6, 1),
    "no bias": lambda: nn.Conv2d(6, 6, 1, bias=False),
    "strided": lambda: nn.Conv2d(6, 6, 3, 2, 1),
    "dilated": lambda: nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3),
    "same": lambda: Conv2dSame(6, 6, 3, 2, groups=6),
    "circular": lambda: nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"),
    "named padding": lambda: nn.Conv2d(6, 6, 3, padding="same"),
}
NORMS = {
    "none": None,
    "norm": lambda: nn.BatchNorm2d(6),
    "of the batch": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "not affine": lambda: nn.BatchNorm2d(6, affine=False),
    "other": lambda: nn.GroupNorm(2, 6),
}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("act", [nn.GELU, GELUTanh, nn.ReLU])
def test_fused(product, norm, act):
    for before in (False, True):
        parts = [PRODUCTS[product](), *([NORMS[norm]()] if NORMS[norm] else []), act()]
        modules = [stirred(m) for m in ([nn.BatchNorm2d(6), *parts] if before else parts)]
        x = torch.randn(2, 6, 9, 8)
        expected = called(*modules)(x)
        torch.testing.assert_close(fused(*modules)(x), expected, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(fused(*modules)(x), expected, rtol=1e-4, atol=1e-5)


def test_gradients_through_folded_norms():
    modules = nn.ModuleList([nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), GELUTanh()])
    modules = stirred(modules.double())
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    inputs = (x, *modules.parameters())
    expected, got = called(*modules)(x), fused(*modules)(x)
    torch.testing.assert_close(got, expected)
    for a, b in zip(torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(expected.sum(), inputs)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 5, 7, 4)])
@pytest.mark.parametrize("linear", [nn.Linear, Linear])
def test_linear(shape, linear):
    fc, x = linear(4, 6), torch.randn(shape)
    for act in (nn.GELU(), GELUTanh(), nn.GELU("tanh")):
        with torch.no_grad():
            torch.testing.assert_close(fused(fc, act)(x), act(fc(x)))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("gate", [GlobalResponseNorm, lambda dim: SqueezeExcite(dim, 4)])
def test_gates(batch, gate):
    modules = [stirred(m) for m in (ResidualDepthwiseConv(6), nn.GELU(), gate(6), nn.Conv2d(6, 4, 1, bias=batch > 1))]
    x = torch.randn(batch, 6, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(fused(*modules)(x), called(*modules)(x), rtol=1e-4, atol=1e-5)


def test_what_is_fused(monkeypatch: pytest.MonkeyPatch):
    calls = []
    conv2d = fusion.conv2d
    monkeypatch.setattr(fusion, "conv2d", lambda *args: calls.append(args[-1]) or conv2d(*args))
    conv, norm, act = stirred(nn.Conv2d(6, 6, 1)), stirred(nn.BatchNorm2d(6)), nn.GELU()
    x = torch.randn(1, 6, 5, 5)

    def kernels(*modules: nn.Module) -> list:
        calls.clear()
        with torch.no_grad():
            fused(*modules)(x)
        return list(calls)

    assert kernels(norm, conv, norm, act) == kernels(conv, norm, act) == kernels(conv, act) == ["gelu"]
    assert kernels(conv, act, conv, norm) == ["gelu", None]
    for module in (conv, norm, act):
        handle = module.register_forward_hook(lambda *args: None)
        assert len(kernels(conv, norm, act)) == (0 if module is conv else 1 if module is act else 0)
        handle.remove()
    calls.clear()
    fused(conv, act)(x)
    assert not calls, "with gradients there is no fused kernel"


def test_watched_modules_are_called_once_on_the_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backbones.ops.chunks.CHUNK", 1)
    mlp, x = stirred(ConvMlp(4, 8)), torch.randn(1, 4, 30, 5)
    with torch.no_grad():
        expected = mlp(x)
        for watched in mlp.children():
            seen = []
            handle = watched.register_forward_hook(lambda m, args, out, seen=seen: seen.append(out.shape[2]))
            torch.testing.assert_close(mlp(x), expected, rtol=1e-4, atol=1e-5)
            assert seen == [30]
            handle.remove()


def test_replaced_by_another_operation():
    conv, act, x = stirred(nn.Conv2d(4, 4, 1)), nn.GELU(), torch.randn(1, 4, 5, 5)

    class Twice(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    other = Twice(4, 4, 1)
    other.load_state_dict(conv.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(fused(other, act)(x), F.gelu(2 * conv(x)))
