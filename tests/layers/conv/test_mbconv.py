"""MBConv, "same" padding and folded BatchNorm against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.layers.conv.mbconv import AvgPool2dSame, Conv2dSame, MBConv, same_padding

SIZES = [(8, 8), (9, 8), (8, 9), (9, 9), (1, 1), (2, 1)]


def stirred(module: nn.Module) -> nn.Module:
    """Random parameters and statistics."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value.copy_(1 + 0.2 * noise.abs() if name.endswith("running_var") else 0.4 * noise)
    return module


def same_conv(x, weight, bias, stride, groups):
    """Every output position separately: the window of output i starts at i * stride - padding before."""
    b, _, height, width = x.shape
    k = weight.shape[-1]
    starts = []
    for size in (height, width):
        outputs = -(-size // stride)
        before = max((outputs - 1) * stride + k - size, 0) // 2
        starts.append([i * stride - before for i in range(outputs)])
    out = x.new_zeros(b, weight.shape[0], len(starts[0]), len(starts[1]))
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            patch = x.new_zeros(b, x.shape[1], k, k)
            rows = [r for r in range(k) if 0 <= top + r < height]
            columns = [c for c in range(k) if 0 <= left + c < width]
            patch[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = x[
                :, :, top + rows[0] : top + rows[-1] + 1, left + columns[0] : left + columns[-1] + 1
            ]
            out[:, :, i, j] = F.conv2d(patch, weight, bias, groups=groups)[:, :, 0, 0]
    return out


def test_same_padding():
    assert same_padding(224, 3, 2) == (0, 1)
    assert same_padding(225, 3, 2) == (1, 1)
    assert same_padding(7, 3, 1) == (1, 1)
    assert same_padding(8, 5, 2) == (1, 2)
    assert same_padding(8, 2, 2) == (0, 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel_size, stride", [(3, 1), (3, 2), (2, 2), (4, 2), (5, 3)])
@pytest.mark.parametrize("groups", [1, 6])
def test_conv2d_same(size, kernel_size, stride, groups):
    conv = Conv2dSame(6, 6, kernel_size, stride, groups=groups, dtype=torch.float64)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = same_conv(x, conv.weight, conv.bias, stride, groups)
    torch.testing.assert_close(conv(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), expected)
        torch.testing.assert_close(conv.float()(x.float()), expected.float(), rtol=1e-4, atol=1e-5)


def test_conv2d_same_refuses_gaps():
    with pytest.raises(ValueError, match="kernel_size 1 must not be smaller than stride 2"):
        Conv2dSame(4, 4, 1, stride=2)


@pytest.mark.parametrize("height, width", SIZES)
def test_average_of_real_pixels(height, width):
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    out = AvgPool2dSame()(x)
    assert out.shape == (2, 3, -(-height // 2), -(-width // 2))
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            cell = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            torch.testing.assert_close(out[:, :, i, j], cell.mean((2, 3)))


def mbconv_reference(block: MBConv, x: torch.Tensor) -> torch.Tensor:
    stride = block.conv2_kxk.stride[0]
    shortcut = AvgPool2dSame()(x) if stride == 2 else x
    expand = block.shortcut.expand
    if isinstance(expand, nn.Conv2d):
        shortcut = F.conv2d(shortcut, expand.weight, expand.bias)
    x = block.pre_norm(x)
    x = F.gelu(block.norm1(F.conv2d(x, block.conv1_1x1.weight)), approximate="tanh")
    x = same_conv(x, block.conv2_kxk.weight, None, stride, x.shape[1])
    x = F.gelu(block.norm2(x), approximate="tanh")
    gates = F.conv2d(x.mean((2, 3), keepdim=True), block.se.fc1.weight, block.se.fc1.bias)
    gates = F.conv2d(F.silu(gates), block.se.fc2.weight, block.se.fc2.bias).sigmoid()
    return shortcut + F.conv2d(x * gates, block.conv3_1x1.weight, block.conv3_1x1.bias)


@pytest.mark.parametrize("in_dim, stride", [(8, 1), (8, 2), (4, 1), (4, 2)])
@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_mbconv(in_dim, stride, size, training):
    """In evaluation the norms are folded into the convolutions, whose gradients must be the same all the same."""
    block = stirred(MBConv(in_dim, 8, stride, dtype=torch.float64)).train(training)
    x = torch.randn(2, in_dim, *size, dtype=torch.float64, requires_grad=True)
    inputs = (x, *block.parameters())
    expected, got = mbconv_reference(block, x), block(x)
    torch.testing.assert_close(got, expected)
    weight = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, inputs, weight), torch.autograd.grad(expected, inputs, weight)):
        torch.testing.assert_close(a, b)
    if not training:
        with torch.inference_mode():
            torch.testing.assert_close(block.float()(x.float()), expected.float(), rtol=1e-4, atol=1e-4)


def test_training_updates_the_statistics():
    block = MBConv(4, 8, 2)
    before = {name: value.clone() for name, value in block.named_buffers()}
    x = torch.randn(4, 4, 8, 8) + 3
    block.train()(x)
    assert not torch.equal(block.norm1.running_mean, before["norm1.running_mean"])
    torch.testing.assert_close(block.pre_norm.running_mean, 0.01 * x.mean((0, 2, 3)))
    assert block.norm2.eps == 1e-3


def test_bfloat16_is_folded_in_float32():
    block = stirred(MBConv(4, 8, 2)).eval()
    x = torch.randn(2, 4, 7, 8)
    with torch.no_grad():
        expected = block(x)
        out = block.to(torch.bfloat16)(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)


def test_exported_for_other_sizes():
    block = stirred(MBConv(4, 8, 2)).eval()
    dynamic = {dim: torch.export.Dim.DYNAMIC for dim in (2, 3)}
    program = torch.export.export(block, (torch.randn(2, 4, 8, 12),), dynamic_shapes=(dynamic,)).module()
    with torch.no_grad():
        for height, width in ((8, 12), (7, 12), (9, 15), (20, 5)):
            x = torch.randn(2, 4, height, width)
            torch.testing.assert_close(program(x), block(x), rtol=1e-4, atol=1e-5)


def test_stride():
    with pytest.raises(ValueError, match="stride must be 1 or 2, not 3"):
        MBConv(4, 8, stride=3)
