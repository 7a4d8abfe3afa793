"""Products and GELU through oneDNN against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.ops import onednn
from backbones.ops.onednn import conv2d, gelu_tanh, linear


@pytest.mark.parametrize("act", [None, "gelu", "gelu_tanh"])
@pytest.mark.parametrize("groups, stride, padding", [(1, (1, 1), (0, 0)), (16, (2, 2), (1, 1)), (16, (2, 1), (1, 0))])
def test_convolution_is_fused_in_inference_only(monkeypatch, act, groups, stride, padding):
    calls = []
    fused = onednn.onednn_conv2d
    monkeypatch.setattr(onednn, "onednn_conv2d", lambda *args: calls.append(args[1].shape) or fused(*args))
    x = torch.randn(2, 16, 9, 8).contiguous(memory_format=torch.channels_last)
    weight, bias = nn.Conv2d(16, 16, 3, groups=groups).parameters()
    expected = F.conv2d(x, weight, bias, stride, padding, groups=groups)
    expected = expected if act is None else F.gelu(expected, approximate="tanh" if act == "gelu_tanh" else "none")
    out = conv2d(x, weight, bias, stride, padding, groups=groups, act=act)
    assert out.requires_grad and weight.shape not in calls
    torch.testing.assert_close(out, expected)
    with torch.no_grad():
        out = conv2d(x, weight, bias, stride, padding, groups=groups, act=act)
    assert weight.shape in calls and out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected)


def test_gelu_has_second_derivatives():
    x = torch.randn(2, 4, 5, 3, requires_grad=True)
    grads = []
    for function in (gelu_tanh, lambda x: F.gelu(x, approximate="tanh")):
        (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        grads.append((first, *torch.autograd.grad(first.square().sum(), x)))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (2, 20, 3)])
def test_gelu_in_every_memory_format(shape):
    x = torch.randn(shape)
    expected = F.gelu(x, approximate="tanh")
    torch.testing.assert_close(gelu_tanh(x), expected)
    torch.testing.assert_close(gelu_tanh(x.transpose(1, 2).contiguous().transpose(1, 2)), expected)


def test_replaced_functions_are_called(monkeypatch):
    """Counters of operations put their own in the place of torch's."""
    x, weight, calls = torch.randn(1, 4, 5, 8), torch.randn(6, 8), []
    plain = F.linear
    monkeypatch.setattr(F, "linear", lambda *args: calls.append(1) or plain(*args))
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight), x @ weight.T)
    assert calls


@pytest.mark.skipif(onednn.onednn_conv2d is None, reason="this torch has no fused convolution")
@pytest.mark.parametrize("shape", [(2, 5, 8), (2, 3, 5, 8)])
def test_linear_layers_and_their_gelu_are_one_kernel_in_inference(shape, monkeypatch):
    x, weight, bias, calls = torch.randn(shape), torch.randn(6, 8), torch.randn(6), []
    kernel = onednn.onednn_conv2d
    monkeypatch.setattr(onednn, "onednn_conv2d", lambda *args: calls.append(1) or kernel(*args))
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias, "gelu"), F.gelu(F.linear(x, weight, bias)))
    assert calls == [1]
