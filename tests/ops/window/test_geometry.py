"""How maps are cut into windows and sparse grids."""

from __future__ import annotations

import pytest
import torch

from backbones.ops.window import Groups, grid_merge, grid_partition, window_merge, window_partition


def test_partitions_hold_neighbours_or_steps():
    x = torch.arange(4 * 6).reshape(1, 4, 6, 1)
    assert window_partition(x, (2, 3))[0, :, :, 0].tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]
    assert grid_partition(x, (2, 3))[0, :, :, 0].tolist() == [
        [0, 2, 4, 12, 14, 16],
        [1, 3, 5, 13, 15, 17],
        [6, 8, 10, 18, 20, 22],
        [7, 9, 11, 19, 21, 23],
    ]


@pytest.mark.parametrize("partition, merge", [(window_partition, window_merge), (grid_partition, grid_merge)])
def test_merge_is_the_inverse(partition, merge):
    x = torch.randn(2, 6, 12, 5)
    assert torch.equal(merge(partition(x, (3, 4)), (3, 4), (2, 3)), x)


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("size", [(6, 12), (7, 9), (1, 1), (3, 13)])
def test_groups_of_padded_maps(grid, size, monkeypatch):
    x = torch.randn(2, *size, 5)
    groups = Groups.of(x, (3, 4), grid)
    padded = groups.pad(x)
    tokens = groups.cut(padded)
    assert tokens.shape == (2, groups.count[0] * groups.count[1], 12, 5)
    assert torch.equal(groups.crop(groups.join(tokens)), x)
    real = groups.real(x.device)
    if real is None:
        assert padded is x
    else:
        assert real.sum() == size[0] * size[1] and not tokens[~real.expand(2, -1, -1)].any()
    assert groups.single == (groups.count == (1, 1))

    monkeypatch.setattr("backbones.ops.window.geometry.is_symbolic", lambda *sizes: True)
    assert torch.equal(groups.cut(padded), tokens.flatten(0, 1)[None]), "the form for symbolic sizes"
    assert torch.equal(groups.join(groups.cut(padded)), padded)
    expected = torch.ones(2, len(tokens[0]), 12, dtype=torch.bool) if real is None else real.expand(2, -1, -1)
    assert torch.equal(groups.real(x.device), expected.flatten(0, 1)[None])
    assert not groups.single
