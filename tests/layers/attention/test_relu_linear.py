"""ReLU linear attention against its definition, query by query."""

from __future__ import annotations

import pytest
import torch

from backbones.layers.attention.relu_linear import ReLULinearAttention


def _reference(layer: ReLULinearAttention, image: torch.Tensor) -> torch.Tensor:
    """One image `(H, W, C)`."""
    q, k, v = layer.qkv(image.flatten(0, 1)).chunk(3, -1)
    outs = []
    for head, parts in enumerate(zip(*(t.chunk(layer.num_heads, -1) for t in (q, k, v)))):
        queries, keys, values = parts[0].relu(), parts[1].relu(), parts[2]
        scores = queries @ keys.T
        outs.append(scores @ values * layer.temperature[head] / scores.sum(1, keepdim=True).clamp(min=100))
    return layer.proj(torch.cat(outs, -1)).view(image.shape)


@pytest.mark.parametrize("size, scale", [((3, 4), 1.0), ((3, 4), 30.0), ((1, 1), 5.0)])
def test_layer_and_gradients_are_their_definition(size, scale):
    """Above and below the floor of what sums are divided by."""
    torch.manual_seed(0)
    layer = ReLULinearAttention(8, 2, dtype=torch.float64)
    torch.nn.init.normal_(layer.temperature)
    x = scale * torch.randn(2, *size, 8, dtype=torch.float64)
    x.requires_grad_()
    out, expected = layer(x), torch.stack([_reference(layer, image) for image in x])
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    inputs = (x, *layer.parameters())
    for a, b in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_agrees_with_single(dtype):
    """Forward and backward, of inputs whose sums over positions half precision does not hold."""
    torch.manual_seed(0)
    layer = ReLULinearAttention(32, 1)
    torch.nn.init.normal_(layer.qkv.weight, std=0.2)
    x = 10 * torch.randn(1, 64, 64, 32).to(dtype).float()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            out = layer(x)
        (grad,) = torch.autograd.grad(1e3 * out.float().square().mean(), layer.qkv.weight)
        assert out.isfinite().all() and grad.isfinite().all()
        results.append((out.float(), grad))
    for expected, found in zip(*results, strict=True):
        assert (found - expected).norm() < 8 * torch.finfo(dtype).eps * expected.norm()


def test_temperature_starts_as_the_scale_of_attention():
    layer = ReLULinearAttention(32, 2)
    assert torch.equal(layer.temperature, torch.full((2, 1, 1), 0.25))


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="dim 8 must be a multiple of num_heads 3"):
        ReLULinearAttention(8, 3)
