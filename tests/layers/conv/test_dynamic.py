"""Input-dependent depthwise convolution against a convolution of every image by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.conv.dynamic import DynamicDepthwiseConv, PredictedDepthwiseConv
from tests.models.zoo import stir


def _reference(layer: DynamicDepthwiseConv, x: torch.Tensor) -> torch.Tensor:
    groups, dim, kernel, _ = layer.weight.shape
    tap_logits = layer.expand(F.gelu(layer.reduce(F.adaptive_avg_pool2d(x, kernel))))
    bias_logits = layer.expand(F.gelu(layer.reduce(F.adaptive_avg_pool2d(x, 1))))
    images = []
    for image, taps, biases in zip(x, tap_logits, bias_logits):
        taps = taps.view(groups, dim, kernel, kernel).softmax(0)
        biases = biases.view(groups, dim).softmax(0)
        weight = sum(taps[g] * layer.weight[g] for g in range(groups))
        bias = sum(biases[g] * layer.bias[g] for g in range(groups))
        images.append(F.conv2d(image[None], weight[:, None], bias, padding=kernel // 2, groups=dim))
    return torch.cat(images)


@pytest.mark.parametrize("args", [{}, {"kernel_size": 3, "num_groups": 3}, {"reduction": 2, "num_groups": 1}])
@pytest.mark.parametrize("training", [False, True])
def test_layer_and_gradients_match_one_convolution_an_image(args, training):
    torch.manual_seed(0)
    layer = DynamicDepthwiseConv(8, **args).double().train(training)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, 8, 9, 5, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    results = []
    for out in (layer(x), _reference(layer, x)):
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()], allow_unused=True)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_images_have_their_own_kernels():
    torch.manual_seed(0)
    layer = DynamicDepthwiseConv(8).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    impulse = torch.zeros(1, 8, 15, 15)
    impulse[:, :, 7, 7] = 1
    responses = layer(torch.cat([impulse, 50 * impulse])) - layer(torch.zeros(2, 8, 15, 15))
    assert not torch.allclose(responses[1], 50 * responses[0], rtol=1e-2)


@pytest.mark.parametrize(
    ("args", "message"),
    [({"kernel_size": 4}, "kernel_size must be odd"), ({"reduction": 16}, "at least the reduction")],
)
def test_options_that_do_not_fit_are_named(args, message):
    with pytest.raises(ValueError, match=message):
        DynamicDepthwiseConv(8, **args)


@pytest.mark.parametrize("alone", [0, 1 << 30])
@pytest.mark.parametrize("kernel", [3, 5])
def test_predicted_kernels(alone, kernel, monkeypatch):
    """One convolution for all images, and one for each."""
    monkeypatch.setattr("backbones.ops.per_image.ALONE", alone)
    torch.manual_seed(0)
    layer = stir(PredictedDepthwiseConv(6, 2, kernel, dtype=torch.float64), std=0.5)
    x, context = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 6, 7, 5), (2, 6)))
    images = []
    for image, vector in zip(x, context):
        kernels = []
        for group in range(2):
            rows = slice(3 * group, 3 * group + 3)
            hidden = F.gelu(layer.fc1.weight[rows, :, 0] @ vector[rows] + layer.fc1.bias[rows])
            taps = slice(rows.start * kernel**2, rows.stop * kernel**2)
            kernels.append(layer.fc2.weight[taps, :, 0] @ hidden + layer.fc2.bias[taps])
        weight = torch.cat(kernels).view(6, 1, kernel, kernel)
        images.append(F.conv2d(image[None], weight, padding=kernel // 2, groups=6))
    weight = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)
    inputs = (x, context, *layer.parameters())
    for channels_last in (False, True):
        y = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        results = [
            [out, *torch.autograd.grad((out * weight).sum(), inputs, retain_graph=True)]
            for out in (layer(y, context), torch.cat(images))
        ]
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want)
