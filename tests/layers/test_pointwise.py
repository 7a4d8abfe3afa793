"""Fast linear layers and MLPs against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.layers.attention.window import GridAttention, WindowAttention
from backbones.layers.conv.basic import ConvMlp, DepthwiseMlp, ResidualDepthwiseConv
from backbones.layers.conv.large_kernel import GatedLargeKernelAttention
from backbones.layers.conv.mbconv import MBConv
from backbones.layers.pointwise import GELUTanh, Linear, Mlp
from backbones.models.emov2 import model as emov2
from backbones.models.maxvit import model as maxvit
from backbones.models.transxnet.model import MultiScaleMlp, SqueezedTokenEnhancer
from backbones.ops import chunks, onednn

SHAPES = [(3, 16), (2, 5, 16), (2, 5, 7, 16), (1, 1, 1, 16)]


def plain_mlp(mlp: Mlp, x: torch.Tensor) -> torch.Tensor:
    hidden = F.gelu(F.linear(x, mlp.fc1.weight, mlp.fc1.bias), approximate=mlp.act.approximate)
    return F.linear(hidden, mlp.fc2.weight, mlp.fc2.bias)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    layer = Linear(16, 24, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    inputs = (x, *layer.parameters())
    expected, got = F.linear(x, layer.weight, layer.bias), layer(x)
    torch.testing.assert_close(got, expected)
    weight = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, inputs, weight), torch.autograd.grad(expected, inputs, weight)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("act_layer", [nn.GELU, GELUTanh])
def test_mlp(shape, dtype, act_layer):
    mlp = Mlp(16, 40, act_layer, dtype=dtype)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    inputs = (x, *mlp.parameters())
    expected, got = plain_mlp(mlp, x), mlp(x)
    torch.testing.assert_close(got, expected)
    for a, b in zip(torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(expected.sum(), inputs)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(mlp(x), expected)


def test_a_map_that_is_not_contiguous():
    mlp = Mlp(16, 40, GELUTanh)
    x = torch.randn(2, 16, 5, 7).permute(0, 2, 3, 1)
    with torch.inference_mode():
        torch.testing.assert_close(mlp(x), plain_mlp(mlp, x))
    torch.testing.assert_close(mlp(x), plain_mlp(mlp, x))


@pytest.mark.parametrize("grad", [True, False])
def test_autocast_and_bfloat16(grad):
    mlp = Mlp(16, 40, GELUTanh)
    x = torch.randn(2, 5, 7, 16)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mlp(x), plain_mlp(mlp, x))
        assert mlp(x).dtype == torch.bfloat16
    mlp, x = mlp.to(torch.bfloat16), x.bfloat16()
    with torch.set_grad_enabled(grad):
        assert torch.equal(mlp(x), plain_mlp(mlp, x))


def test_without_onednn(monkeypatch):
    mlp, x = Mlp(16, 40, GELUTanh), torch.randn(2, 5, 7, 16)
    monkeypatch.setattr(onednn, "onednn_conv2d", None)
    with torch.inference_mode():
        torch.testing.assert_close(mlp(x), plain_mlp(mlp, x))
        with torch.backends.mkldnn.flags(enabled=False):
            torch.testing.assert_close(mlp(x), plain_mlp(mlp, x))


def test_factory_arguments():
    mlp = Mlp(16, 40, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in mlp.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_function_transforms():
    mlp, x = Mlp(16, 40, GELUTanh), torch.randn(3, 2, 5, 7, 16)
    torch.testing.assert_close(torch.func.vmap(mlp)(x), plain_mlp(mlp, x))
    expected = torch.func.grad(lambda x: plain_mlp(mlp, x).square().sum())(x[0])
    torch.testing.assert_close(torch.func.grad(lambda x: mlp(x).square().sum())(x[0]), expected, rtol=1e-5, atol=1e-5)


def inverted_residual(stride: int) -> nn.Module:
    expand = emov2.ConvExpansion(8, 16, nn.SiLU)
    return emov2.InvertedResidual(8, 8, 16, expand, nn.BatchNorm2d, 5, stride, has_skip=stride == 1, layer_scale=0.5)


class ChannelsLast(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: ChannelsLast(Mlp(8, 24)),
        lambda: ChannelsLast(DepthwiseMlp(8, 24)),
        lambda: ChannelsLast(DepthwiseMlp(8, 24, residual=False)),
        lambda: ConvMlp(8, 24),
        lambda: ResidualDepthwiseConv(8, 5),
        lambda: GatedLargeKernelAttention(8),
        lambda: MBConv(8, 8),
        lambda: MBConv(8, 8, stride=2),
        lambda: MultiScaleMlp(8, 32),
        lambda: SqueezedTokenEnhancer(8),
        lambda: ChannelsLast(WindowAttention(8, 2, 3)),
        lambda: ChannelsLast(GridAttention(8, 2, 3)),
        lambda: maxvit.Stem(8, 8),
        lambda: emov2.Stem(8, 8),
        lambda: inverted_residual(1),
        lambda: inverted_residual(2),
    ],
)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("height", [9, 24])
def test_inference_computes_what_training_does(monkeypatch: pytest.MonkeyPatch, layer, training: bool, height: int):
    """With kernels merged, image by image and rows by rows, and in training mode over the whole batch."""
    monkeypatch.setattr(chunks, "CHUNK", 1)
    torch.manual_seed(0)
    layer = layer().train(training)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            module.momentum = 0.0
    x = torch.randn(3, 8, height, 7).contiguous(memory_format=torch.channels_last)
    expected = layer(x.clone().requires_grad_())
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=3e-5)
