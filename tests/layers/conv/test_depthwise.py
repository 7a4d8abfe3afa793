"""The large-kernel depthwise convolution against `nn.Conv2d`, values and gradients."""

import copy

import pytest
import torch
from torch import nn

from backbones.layers.conv import depthwise
from backbones.layers.conv.depthwise import LargeDepthwiseConv2d, correlate


def plain(conv: LargeDepthwiseConv2d) -> nn.Conv2d:
    args = {"padding": conv.padding, "groups": conv.groups, "bias": conv.bias is not None, "dtype": conv.weight.dtype}
    twin = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, **args)
    twin.load_state_dict(conv.state_dict())
    return twin


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel_size", [7, 13, 17])
@pytest.mark.parametrize("size", [(1, 1), (3, 8), (19, 12)])
def test_is_a_convolution(kernel_size, size, bias):
    torch.manual_seed(0)
    conv = LargeDepthwiseConv2d(4, kernel_size, bias=bias, dtype=torch.float64)
    twin = plain(conv)
    x = torch.randn(2, 4, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    results = []
    for module in (conv, twin):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        assert y.is_contiguous(memory_format=torch.channels_last)
        (y * torch.arange(y.numel()).view(y.shape).cos()).sum().backward()
        results.append([y, leaf.grad, *(p.grad for p in module.parameters())])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_large_kernels_take_the_fourier_path_only_in_eager_training(monkeypatch):
    calls = []
    monkeypatch.setattr(depthwise, "correlate", lambda *args: calls.append(args) or correlate(*args))
    large, small = LargeDepthwiseConv2d(2, 13), LargeDepthwiseConv2d(2, 11)
    x = torch.randn(1, 2, 6, 6)
    small(x).sum().backward()
    torch.compile(large, backend="aot_eager", fullgraph=True)(x).sum().backward()
    copy.deepcopy(large).requires_grad_(False)(x.clone().requires_grad_()).sum().backward()
    assert not calls
    large(x).sum().backward()
    assert len(calls) == 1


def test_second_derivatives():
    torch.manual_seed(0)
    conv = LargeDepthwiseConv2d(1, 13, bias=False, dtype=torch.float64)
    x = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(conv, (x,))


def test_bfloat16():
    torch.manual_seed(0)
    conv = LargeDepthwiseConv2d(3, 13)
    twin = plain(conv)
    x = torch.randn(2, 3, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = conv(x), twin(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    y.float().square().sum().backward()
    expected.float().square().sum().backward()
    assert conv.weight.grad.dtype == torch.float32
    torch.testing.assert_close(conv.weight.grad, twin.weight.grad, rtol=0.02, atol=0.02 * twin.weight.grad.std().item())
    half = conv.to(torch.bfloat16)
    half(x.bfloat16()).sum().backward()
    assert half.weight.grad.dtype == torch.bfloat16
