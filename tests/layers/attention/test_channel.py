"""Attention among channels against its definition, channel by channel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.channel import ChannelAttention


def reference(module: ChannelAttention, x: torch.Tensor) -> torch.Tensor:
    b, height, width, dim = x.shape
    size = dim // module.groups
    q, k, v = F.linear(x, module.qkv.weight, module.qkv.bias).flatten(1, 2).split(dim, dim=-1)
    out = torch.zeros(b, height * width, dim, dtype=x.dtype)
    for first in range(0, dim, size):
        group = range(first, first + size)
        for i in group:
            logits = torch.stack([(k[..., i] * v[..., j]).sum(1) / size**0.5 for j in group], dim=-1)
            for j, weight in zip(group, logits.softmax(-1).unbind(-1)):
                out[..., i] += weight[:, None] * q[..., j]
    return F.linear(out, module.proj.weight, module.proj.bias).unflatten(1, (height, width))


@pytest.mark.parametrize("groups, qkv_bias", [(1, True), (2, True), (4, False)])
@pytest.mark.parametrize("height, width", [(4, 5), (1, 1), (7, 2)])
def test_definition(groups, qkv_bias, height, width):
    torch.manual_seed(0)
    module = ChannelAttention(8, groups, qkv_bias, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    x = torch.randn(2, height, width, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x), reference(module, x))


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="dim 8 must be a multiple of groups 3"):
        ChannelAttention(8, 3)
