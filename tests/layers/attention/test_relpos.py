"""The bias for Euclidean distances against a bucket at a time."""

from __future__ import annotations

import math

import pytest
import torch

from backbones.layers.attention.relpos import DistanceBias2d


def _bucket(distance: float, exact: int) -> int:
    """iRPE's piecewise function of a distance (equation 18); Python rounds half to even, as torch does."""
    whole = round(distance)
    if whole <= exact:
        return whole
    return min(round(exact + math.log(whole / exact) / math.log(8) * exact), 2 * exact)


@pytest.mark.parametrize(("height", "width", "exact"), [(3, 5, 20), (1, 1, 20), (2, 48, 3), (9, 7, 1)])
def test_every_pair_and_its_gradient(height, width, exact):
    torch.manual_seed(0)
    bias = DistanceBias2d(2, exact, dtype=torch.float64)
    assert not bias.relative_position_bias_table.any(), "zero at first, as published"
    table = torch.nn.init.normal_(bias.relative_position_bias_table)
    places = [(i, j) for i in range(height) for j in range(width)]
    rows = [[2 * exact + _bucket(math.dist(a, b), exact) for b in places] for a in places]
    out, expected = bias(height, width), table[:, torch.tensor(rows)]
    assert torch.equal(out, expected)
    weights = torch.randn_like(out)
    grads = [torch.autograd.grad((o * weights).sum(), table)[0] for o in (out, expected)]
    torch.testing.assert_close(*grads)
    assert not grads[0][:, : 2 * exact].any(), "a distance is never negative"


def test_published_buckets():
    """81 entries a head; the largest is reached at a distance of 160 and kept beyond."""
    bias = DistanceBias2d(1)
    assert bias.relative_position_bias_table.shape == (1, 81)
    with torch.no_grad():
        bias.relative_position_bias_table.copy_(torch.arange(81.0)[None])
    row = bias(1, 200)[0, 0]
    assert row[:21].tolist() == list(range(40, 61))
    assert row[160:].unique().tolist() == [80] and (row.diff() >= 0).all()
