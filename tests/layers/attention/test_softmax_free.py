"""Softmax-free attention against its definition, and its inverses against those of linear algebra."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.softmax_free import (
    INVERSES,
    HeadwiseConv2d,
    SoftmaxFreeAttention,
    gaussian,
    normalized_inverse,
    plain_inverse,
    ridge_inverse,
)


def _layer(inverse: str = "ridge", ratio: int = 2, dim: int = 12, heads: int = 3) -> SoftmaxFreeAttention:
    torch.manual_seed(0)
    layer = SoftmaxFreeAttention(dim, heads, ratio, 3, inverse, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.6)
    return layer


def _kernel(count: int = 6, spread: float = 1.0, batch: int = 2, heads: int = 3) -> torch.Tensor:
    """Of random landmarks, the farther apart the larger `spread` is."""
    points = spread * torch.randn(
        batch, heads, count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    return (-torch.cdist(points, points).square() / 2).exp()


def _reference(layer: SoftmaxFreeAttention, image: torch.Tensor) -> torch.Tensor:
    """One image `(H, W, C)`, head by head and landmark by landmark."""
    height, width, dim = image.shape
    size, r = dim // layer.num_heads, layer.ratio
    q, v = (t.chunk(layer.num_heads, -1) for t in layer.qv(image).split(dim, -1))
    ps, ms, locals_ = [], [], []
    for head, (queries, values) in enumerate(zip(q, v)):
        queries = queries / size**0.25
        padded = F.pad(queries, (0, 0, 0, max(r - width, 0), 0, max(r - height, 0)))
        landmarks = torch.stack(
            [
                torch.einsum("ijc,ocij->o", padded[y : y + r, x : x + r], layer.reduce.weight)
                for y in range(0, padded.shape[0] - r + 1, r)
                for x in range(0, padded.shape[1] - r + 1, r)
            ]
        )
        landmarks = F.gelu(F.layer_norm(landmarks, (size,), layer.norm.weight, layer.norm.bias))
        ps.append(torch.stack([(-(a - landmarks).square().sum(-1) / 2).exp() for a in queries.flatten(0, 1)]))
        ms.append(torch.stack([(-(a - landmarks).square().sum(-1) / 2).exp() for a in landmarks]))
        local = F.conv2d(values.permute(2, 0, 1)[:, None], layer.local_conv.weight[head : head + 1], padding=1)
        locals_.append(local[:, 0].permute(1, 2, 0))
    inverses = INVERSES[layer.inverse](torch.stack(ms)[None])[0]
    outs = [
        (p @ inverse @ p.T @ values.flatten(0, 1)).view(height, width, size) + local
        for p, inverse, values, local in zip(ps, inverses, v, locals_)
    ]
    return layer.proj(torch.cat(outs, -1))


@pytest.mark.parametrize("inverse", INVERSES)
@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 6)])
def test_layer_is_its_definition(inverse, size):
    """Outputs and gradients. Some positions are in no landmark, and a map is smaller than what makes one."""
    layer = _layer(inverse)
    x = torch.randn(2, *size, 12, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([_reference(layer, image) for image in x])
    out = layer(x)
    torch.testing.assert_close(out, expected, rtol=1e-8, atol=1e-10)
    grad = torch.randn_like(out)
    inputs = (x, *layer.parameters())
    for a, b in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("inverse", INVERSES)
def test_half_precision_agrees_with_single(inverse, dtype):
    """Forward and backward, of inputs whose products and sums over positions half precision does not hold."""
    layer = _layer(inverse, ratio=8, dim=32, heads=1).float()
    torch.nn.init.normal_(layer.qv.weight, std=0.05)
    x = 10 * torch.randn(1, 64, 64, 32).to(dtype).float()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            out = layer(x)
        (grad,) = torch.autograd.grad(out.float().square().mean(), layer.qv.weight)
        assert out.isfinite().all() and grad.isfinite().all()
        results.append((out.float(), grad))
    for expected, found in zip(*results, strict=True):
        eps = torch.finfo(dtype).eps
        assert (found - expected).norm() < 8 * eps * expected.norm()


def test_inverses_of_well_conditioned_kernels():
    m = _kernel(spread=2.0)
    torch.testing.assert_close(plain_inverse(m), torch.linalg.inv(m))
    torch.testing.assert_close(ridge_inverse(m), torch.linalg.inv(m + 0.01 * torch.eye(6, dtype=m.dtype)))
    degrees = m.sum(-1).rsqrt()
    expected = degrees[..., None] * torch.linalg.inv(m) * degrees[..., None, :]
    torch.testing.assert_close(normalized_inverse(m), expected)


@pytest.mark.parametrize("inverse, ridge", [(ridge_inverse, 0.01), (plain_inverse, 0.0)])
def test_gradients_are_those_of_an_inverse(inverse, ridge):
    m = _kernel(spread=2.0).requires_grad_()
    expected = torch.linalg.inv(m + ridge * torch.eye(6, dtype=m.dtype))
    grad = torch.randn_like(m)
    (found,), (exact,) = (torch.autograd.grad(z, m, grad) for z in (inverse(m), expected))
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)


def _steps(m: torch.Tensor, start: float, matrix: torch.Tensor) -> torch.Tensor:
    z = start * matrix
    for _ in range(20):
        z = 2 * z - z @ matrix @ z
    return z


def test_inverses_of_nearly_singular_kernels_are_what_20_steps_reach():
    """From the authors' starts, that of one image for "plain": twenty steps are not enough there."""
    m = _kernel(spread=0.05, batch=1)[0]
    found = ridge_inverse(m[None])[0]
    for kernel, inverse in zip(m, found):
        shifted = kernel + 0.01 * torch.eye(6, dtype=m.dtype)
        torch.testing.assert_close(inverse, _steps(kernel, 1.8 / kernel.sum(1).max().item() ** 2, shifted))
    start = 2 / m.sum(-1).max().item() ** 2
    identity, halvings = torch.eye(6, dtype=m.dtype), 0
    while max((identity - start * kernel @ kernel).abs().sum(0).max() for kernel in m) > 1.01 and halvings < 10:
        start, halvings = start / 2, halvings + 1
    assert 0 < halvings < 10
    for kernel, inverse in zip(m, plain_inverse(m[None])[0]):
        expected = _steps(kernel, start, kernel)
        torch.testing.assert_close(inverse, expected, rtol=1e-6, atol=1e-6)
        assert (expected @ kernel - identity).abs().max() > 0.1


def test_images_of_a_batch_do_not_change_each_other():
    """The step of SOFT++ is an image's own; where the steps do not reach the inverse, that shows."""
    m = torch.cat([_kernel(spread=0.05, batch=1), _kernel(spread=2.0, batch=1)])
    torch.testing.assert_close(plain_inverse(m)[:1], plain_inverse(m[:1]), rtol=0, atol=0)


def test_weights_are_those_of_squared_distances():
    a, b = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(gaussian(a, b), (-torch.cdist(a, b).square() / 2).exp())


def test_channels_of_a_head_share_a_kernel():
    conv = HeadwiseConv2d(2, 3, dtype=torch.float64)
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    expected = [F.conv2d(x[:, i : i + 1], conv.weight[i // 3, None], padding=1) for i in range(6)]
    torch.testing.assert_close(conv(x), torch.cat(expected, 1))


@pytest.mark.parametrize(
    "args, said",
    [
        ({"num_heads": 5}, "dim 12 must be a multiple of num_heads 5"),
        ({"kernel_size": 4}, "kernel_size must be odd, not 4"),
        ({"inverse": "exact"}, "inverse must be one of ridge, plain, normalized, not 'exact'"),
    ],
)
def test_mistakes_are_named(args, said):
    with pytest.raises(ValueError, match=said):
        SoftmaxFreeAttention(**{"dim": 12, "num_heads": 3, "ratio": 2, **args})
