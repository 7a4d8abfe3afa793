"""Rotary positions of maps against rotations written out."""

from __future__ import annotations

import math

import pytest
import torch

from backbones.ops.rotary import map_rotations, rotate


def _turned(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """`(N, C)` pair by pair, by rotation matrices."""
    out = torch.empty_like(x)
    quarter = x.shape[1] // 4
    for n in range(height * width):
        for pair in range(2 * quarter):
            position = n // width if pair < quarter else n % width
            angle = position * 10000 ** -(pair % quarter / max(quarter - 1, 1))
            matrix = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
            out[n, 2 * pair : 2 * pair + 2] = torch.tensor(matrix, dtype=x.dtype) @ x[n, 2 * pair : 2 * pair + 2]
    return out


@pytest.mark.parametrize(("height", "width", "dim"), [(3, 5, 12), (1, 7, 8), (4, 1, 4)])
def test_rotation_of_every_pair(height, width, dim):
    torch.manual_seed(0)
    x = torch.randn(2, 3, height * width, dim, dtype=torch.float64)
    rotations = map_rotations(height, width, dim, x.device)
    want = torch.stack([_turned(one, height, width) for one in x.flatten(0, 1)]).view_as(x)
    torch.testing.assert_close(rotate(x, rotations), want, atol=2e-6, rtol=0)  # cosines are in float32


def test_half_precision_is_turned_in_single():
    torch.manual_seed(0)
    x = torch.randn(5, 8).half()
    rotations = map_rotations(1, 5, 8, x.device)
    out = rotate(x, rotations)
    assert out.dtype == torch.float16
    assert torch.equal(out, rotate(x.float(), rotations).half())


def test_graphs_turn_alike_forward_and_backward():
    torch.manual_seed(0)
    x = torch.randn(2, 2, 6, 8, requires_grad=True)
    weight = torch.randn(2, 2, 6, 8)
    rotations = map_rotations(2, 3, 8, x.device)
    results = []
    for function in (rotate, torch.compile(rotate, backend="aot_eager")):
        out = function(x, rotations)
        results.append((out, *torch.autograd.grad((out * weight).sum(), x)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)
