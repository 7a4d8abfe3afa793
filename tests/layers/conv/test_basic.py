"""Convolutional units, head and squeeze-excite against plain formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.layers.conv.basic import ConvMlp, ConvNorm, DepthwiseMlp, ResidualDepthwiseConv
from backbones.layers.head import ConvHead
from backbones.layers.squeeze_excite import SqueezeExcite


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "args",
    [{}, {"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "dilation": 2, "groups": 2}, {"bias": True}],
)
def test_conv_norm(args):
    unit = ConvNorm(4, 6, **args).eval()
    nn.init.normal_(unit.norm.running_mean)
    x = torch.randn(2, 4, 7, 9)
    padding = args.get("dilation", 1) * (args.get("kernel_size", 1) // 2)
    rest = {k: args[k] for k in ("stride", "dilation", "groups") if k in args}
    y = F.conv2d(x, unit.conv.weight, unit.conv.bias, padding=padding, **rest)
    assert (unit.conv.bias is not None) == ("bias" in args)
    expected = (y - unit.norm.running_mean.view(-1, 1, 1)) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(unit(x), expected)
    if "stride" not in args:
        assert y.shape[2:] == x.shape[2:]


def test_residual_depthwise_conv():
    conv = ResidualDepthwiseConv(3, 5)
    x = torch.randn(1, 3, 6, 8)
    expected = torch.cat([F.conv2d(x[:, c : c + 1], conv.weight[c : c + 1], padding=2) for c in range(3)], dim=1)
    torch.testing.assert_close(conv(x), x + expected + conv.bias.view(-1, 1, 1))
    assert list(conv.state_dict()) == ["weight", "bias"]


def test_conv_mlp():
    mlp = ConvMlp(4, 12)
    nn.init.normal_(mlp.grn.gamma)
    x = torch.randn(2, 4, 5, 6)
    hidden = F.gelu(F.linear(x.permute(0, 2, 3, 1), mlp.fc1.weight.flatten(1), mlp.fc1.bias)).permute(0, 3, 1, 2)
    hidden = hidden + F.conv2d(hidden, mlp.dwconv.weight, mlp.dwconv.bias, padding=1, groups=12)
    response = hidden.square().sum((2, 3), keepdim=True).sqrt()
    hidden = hidden + mlp.grn.gamma * hidden * response / (response.mean(1, keepdim=True) + 1e-6)
    expected = F.linear(hidden.permute(0, 2, 3, 1), mlp.fc2.weight.flatten(1), mlp.fc2.bias).permute(0, 3, 1, 2)
    torch.testing.assert_close(mlp(x), expected)


def test_depthwise_mlp_without_residual():
    mlp = DepthwiseMlp(4, 12, residual=False)
    x = torch.randn(2, 5, 6, 4)
    hidden = F.linear(x, mlp.fc1.weight, mlp.fc1.bias).permute(0, 3, 1, 2)
    hidden = F.gelu(F.conv2d(hidden, mlp.dwconv.weight, mlp.dwconv.bias, padding=1, groups=12))
    torch.testing.assert_close(mlp(x), F.linear(hidden.permute(0, 2, 3, 1), mlp.fc2.weight, mlp.fc2.bias))


def test_squeeze_excite():
    module = SqueezeExcite(6, 3, act_layer=nn.GELU)
    x = torch.randn(2, 6, 4, 5)
    hidden = F.gelu(F.linear(x.mean((2, 3)), module.fc1.weight.flatten(1), module.fc1.bias))
    gates = F.linear(hidden, module.fc2.weight.flatten(1), module.fc2.bias).sigmoid()
    torch.testing.assert_close(module(x), x * gates[..., None, None])


def test_head_pools_after_its_hidden_layer():
    head = ConvHead(6, 3, hidden_size=10).eval()
    nn.init.normal_(head.norm.running_mean)
    x = torch.randn(2, 6, 4, 5)
    hidden = F.silu(head.norm(F.conv2d(x, head.conv.weight))).mean((2, 3))
    torch.testing.assert_close(head(x, pre_logits=True), hidden)
    torch.testing.assert_close(head(x), F.linear(hidden, head.fc.weight, head.fc.bias))


def test_head_pools_before_its_hidden_layer():
    head = ConvHead(6, 3, hidden_size=10, act_layer=nn.ReLU, norm=False, pool_first=True)
    x = torch.randn(2, 6, 4, 5)
    hidden = F.relu(x.mean((2, 3)) @ head.conv.weight.flatten(1).T)
    torch.testing.assert_close(head(x, pre_logits=True), hidden)
    torch.testing.assert_close(head(x), F.linear(hidden, head.fc.weight, head.fc.bias))
    assert list(head.state_dict()) == ["conv.weight", "fc.weight", "fc.bias"]
    head.reset(7, "max")
    hidden = F.relu(x.amax((2, 3)) @ head.conv.weight.flatten(1).T)
    torch.testing.assert_close(head(x), F.linear(hidden, head.fc.weight, head.fc.bias))
    head.reset(7, "")
    assert head(x).shape == (2, 7, 4, 5)
    torch.testing.assert_close(head(x)[:, :, 1, 2], head.fc(F.relu(x[:, :, 1, 2] @ head.conv.weight.flatten(1).T)))
    with pytest.raises(AssertionError, match="one pooling"):
        head.reset(7, "catavgmax")
    head.reset(7, "catavgmax", reset_other=True)
    torch.testing.assert_close(head(x), head.fc(torch.cat((x.mean((2, 3)), x.amax((2, 3))), 1)))


def test_head_resets():
    head = ConvHead(6, 3, hidden_size=10, dtype=torch.float64)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    head.reset(7)
    assert head(x).shape == (2, 7) and head.fc.weight.dtype == torch.float64
    head.reset(7, "")
    dense = head(x)
    assert dense.shape == (2, 7, 4, 5)
    torch.testing.assert_close(dense[:, :, 1, 2], head.fc(head(x, pre_logits=True)[:, :, 1, 2]))
    head.reset(0, "catavgmax")
    assert head(x).shape == (2, 20) and head.num_features == 20
    with pytest.raises(ValueError, match="reset_other=True"):
        head.reset(0, in_features=8)
    head.eval().reset(5, "avg", reset_other=True, in_features=8)
    assert head.num_features == 8 and not head.drop.training and not head.fc.training
    assert head(torch.randn(2, 8, 3, 3, dtype=torch.float64)).shape == (2, 5)
