"""The multi-head mixed convolution and the modulation made of it, against a loop over channels."""

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.conv.basic import DepthwiseMlp
from backbones.layers.conv.modulation import MultiHeadMixedConv, ScaleAwareModulation


def _channel(conv: MultiHeadMixedConv, x: torch.Tensor, q: int, head: int) -> torch.Tensor:
    width = x.shape[1] // len(conv.convs)
    one = conv.convs[head]
    source = x[:, head * width + q : head * width + q + 1]
    return F.conv2d(source, one.weight[q : q + 1], one.bias[q : q + 1], padding=one.kernel_size[0] // 2)


def test_heads_come_out_interleaved():
    torch.manual_seed(0)
    conv = MultiHeadMixedConv(12, (3, 5, 7), dtype=torch.float64)
    x = torch.randn(2, 12, 9, 7, dtype=torch.float64)
    y = conv(x)
    assert y.shape == x.shape and y.is_contiguous(memory_format=torch.channels_last)
    for q in range(4):
        for head in range(3):
            torch.testing.assert_close(y[:, q * 3 + head : q * 3 + head + 1], _channel(conv, x, q, head))


def test_modulation():
    torch.manual_seed(0)
    layer = ScaleAwareModulation(8, (3, 5), expand_ratio=3, dtype=torch.float64).eval()
    layer.norm.running_mean.normal_()
    layer.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 6, 5, 8, dtype=torch.float64, requires_grad=True)

    context = layer.heads(layer.s(x).permute(0, 3, 1, 2))
    weight, bias = layer.expand.weight[:, :, 0, 0], layer.expand.bias
    wide = []
    for o in range(24):  # of four groups of two channels in and six out
        group = context[:, 2 * (o // 6) : 2 * (o // 6) + 2]
        wide.append(torch.einsum("bchw,c->bhw", group, weight[o]) + bias[o])
    wide = torch.stack(wide, -1)
    wide = (wide - layer.norm.running_mean) / (layer.norm.running_var + layer.norm.eps).sqrt()
    wide = F.gelu(wide * layer.norm.weight + layer.norm.bias)
    expected = layer.proj((wide @ layer.mix.weight[:, :, 0, 0].T + layer.mix.bias) * layer.v(x))

    got = layer(x)
    torch.testing.assert_close(got, expected)
    inputs = [x, *layer.parameters()]
    seed = torch.randn_like(got)
    ours = torch.autograd.grad(got, inputs, seed, retain_graph=True)
    for a, b in zip(ours, torch.autograd.grad(expected, inputs, seed), strict=True):
        torch.testing.assert_close(a, b)


def test_mlp_adds_its_convolution():
    torch.manual_seed(0)
    mlp = DepthwiseMlp(6, 10, dtype=torch.float64)
    x = torch.randn(2, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    hidden = x @ mlp.fc1.weight.T + mlp.fc1.bias
    local = F.conv2d(hidden.permute(0, 3, 1, 2), mlp.dwconv.weight, mlp.dwconv.bias, padding=1, groups=10)
    expected = F.gelu(hidden + local.permute(0, 2, 3, 1)) @ mlp.fc2.weight.T + mlp.fc2.bias
    got = mlp(x)
    torch.testing.assert_close(got, expected)
    inputs = [x, *mlp.parameters()]
    seed = torch.randn_like(got)
    ours = torch.autograd.grad(got, inputs, seed, retain_graph=True)
    for a, b in zip(ours, torch.autograd.grad(expected, inputs, seed), strict=True):
        torch.testing.assert_close(a, b)


def test_heads_of_one_width_only():
    with pytest.raises(ValueError, match="dim 10 must be a multiple of the number of kernels 4"):
        MultiHeadMixedConv(10)
