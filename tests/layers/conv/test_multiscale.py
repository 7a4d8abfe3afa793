"""Depthwise convolutions of several kernel sizes side by side."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.conv.multiscale import MultiScaleDepthwiseConv


@pytest.mark.parametrize("dim", [8, 11])
def test_every_slice_has_its_kernel(dim):
    torch.manual_seed(0)
    layer = MultiScaleDepthwiseConv(dim, (1, 3, 5, 7))
    widths = [dim - 3 * (dim // 4)] + [dim // 4] * 3
    assert [tuple(conv.weight.shape) for conv in layer.convs] == [(w, 1, k, k) for w, k in zip(widths, (1, 3, 5, 7))]
    # All in one kernel of the largest size, the smaller ones in its middle.
    weight = torch.cat([F.pad(c.weight, [(7 - c.kernel_size[0]) // 2] * 4) for c in layer.convs])
    bias = torch.cat([c.bias for c in layer.convs])
    x = torch.randn(2, dim, 9, 6).to(memory_format=torch.channels_last)
    out = layer(x)
    torch.testing.assert_close(out, F.conv2d(x, weight, bias, padding=3, groups=dim))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_options_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="number of kernels 4"):
        MultiScaleDepthwiseConv(3)
    with pytest.raises(ValueError, match="kernel_sizes must be odd"):
        MultiScaleDepthwiseConv(8, (3, 4))
