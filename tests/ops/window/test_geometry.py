"""How maps are cut into windows and sparse grids."""

from __future__ import annotations

import pytest
import torch

from backbones.ops.window import Groups, window_merge, window_partition


def test_partitions_hold_neighbours_or_steps():
    x = torch.arange(4 * 6).reshape(1, 4, 6, 1)
    assert window_partition(x, (2, 3))[0, :, :, 0].tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]
    assert window_partition(x, (2, 3), (2, 2))[0, :, :, 0].tolist() == [
        [0, 2, 4, 12, 14, 16],
        [1, 3, 5, 13, 15, 17],
        [6, 8, 10, 18, 20, 22],
        [7, 9, 11, 19, 21, 23],
    ]

    assert window_partition(x, (2, 3), (1, 2))[0, :, :, 0].tolist() == [
        [0, 2, 4, 6, 8, 10],
        [1, 3, 5, 7, 9, 11],
        [12, 14, 16, 18, 20, 22],
        [13, 15, 17, 19, 21, 23],
    ]


@pytest.mark.parametrize("interval", [(1, 1), (2, 3), (2, 1)])
def test_merge_is_the_inverse(interval):
    x = torch.randn(2, 6, 12, 5)
    assert torch.equal(window_merge(window_partition(x, (3, 4), interval), (3, 4), (2, 3), interval), x)


OPTIONS = [
    {},
    {"grid": True},
    {"interval": (2, 3)},
    {"shift": (1, 2)},
    {"shift": (1, 2), "roll_first": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size", [(6, 12), (7, 9), (1, 1), (3, 13)])
def test_groups_of_padded_maps(options, size, monkeypatch):
    x = torch.randn(2, *size, 5)
    groups = Groups.of(x, (3, 4), **options)
    padded = groups.pad(x)
    tokens = groups.cut(padded)
    assert tokens.shape == (2, groups.count[0] * groups.count[1], 12, 5)
    assert torch.equal(groups.crop(groups.join(tokens)), x)
    real = groups.real(x.device)
    bands = groups.bands(x.device)
    if real is None:
        assert padded.shape == x.shape
    else:
        assert real.sum() == size[0] * size[1] and not tokens[~real.expand(2, -1, -1)].any()
    assert groups.single == (groups.count == (1, 1))

    monkeypatch.setattr("backbones.ops.window.geometry.is_symbolic", lambda *sizes: True)
    assert torch.equal(groups.cut(padded), tokens.flatten(0, 1)[None]), "the form for symbolic sizes"
    assert torch.equal(groups.join(groups.cut(padded)), padded)
    expected = torch.ones(2, len(tokens[0]), 12, dtype=torch.bool) if real is None else real.expand(2, -1, -1)
    assert torch.equal(groups.real(x.device), expected.flatten(0, 1)[None])
    assert not groups.single
    if bands is not None:
        assert torch.equal(groups.bands(x.device), bands.expand(2, -1, -1).flatten(0, 1)[None])


@pytest.mark.parametrize("size, roll_first", [((6, 12), False), ((6, 12), True), ((7, 9), False), ((3, 13), False)])
def test_bands_part_what_the_roll_brings_together(size, roll_first):
    """Positions of a window with the same number are as far apart in the map as in the window.

    Not so where a map is rolled before it is padded, as timm's are: padding is then between neighbours.
    """
    height, width = size
    place = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)[None]
    groups = Groups.of(place, (3, 4), shift=(1, 2), roll_first=roll_first)
    tokens, bands, real = groups.cut(groups.pad(place)), groups.bands(place.device), groups.real(place.device)
    inside = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij"), -1).reshape(12, 2)
    steps = tokens[0, :, :, None] - tokens[0, :, None]
    apart = (steps != inside[:, None] - inside[None]).any(-1)
    both = torch.ones_like(apart) if real is None else real[0, :, :, None] & real[0, :, None]
    same = bands[0, :, :, None] == bands[0, :, None]
    assert not (same & apart & both).any()
    if real is None:
        assert torch.equal(same, ~apart)
