"""Spectral gating against its definition as a circular convolution, and its filter at other sizes."""

from __future__ import annotations

import pytest
import torch

from backbones.layers.spectral import SpectralGating


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 2)])
def test_definition(size):
    """The inverse transform of the filter, as large as the map, slides around it."""
    torch.manual_seed(0)
    layer = SpectralGating(3, size).double()
    height, width = size
    x = torch.randn(2, height, width, 3, dtype=torch.float64)
    kernel = torch.fft.irfft2(torch.view_as_complex(layer.complex_weight.detach()), s=size, dim=(0, 1))
    expected = torch.zeros_like(x)
    for dy in range(height):
        for dx in range(width):
            expected += kernel[dy, dx] * x.roll((dy, dx), (1, 2))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)


def test_filter_is_resized_corner_to_corner():
    torch.manual_seed(0)
    layer = SpectralGating(2, (4, 6))
    old, x = layer.complex_weight.detach().clone(), torch.randn(1, 7, 12, 2)
    with torch.no_grad():
        before = layer(x)
        layer.set_map_size((7, 12))
        torch.testing.assert_close(layer(x), before)
    new = layer.complex_weight
    assert new.shape == (7, 7, 2, 2) and layer.map_size == (7, 12)
    torch.testing.assert_close(new[::6, ::6], old[::3, ::3])
    torch.testing.assert_close(new[::2, ::2], old)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_transformed_in_single(dtype):
    torch.manual_seed(0)
    layer = SpectralGating(4, (16, 16)).to(dtype)
    x = (200 * torch.randn(1, 16, 16, 4)).to(dtype)  # sums of half precision would overflow
    with torch.no_grad():
        y = layer(x)
        assert y.dtype == dtype and torch.equal(y, layer.float()(x.float()).to(dtype))
