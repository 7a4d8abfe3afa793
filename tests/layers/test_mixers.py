"""Mixers by name, and in what hosts do with entries, options and prefix tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.layers.attention.neighborhood import NeighborhoodAttention2d
from backbones.layers.mixers import MIXERS, Mixer, model_mixers, stage_mixers


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("map_size", [(8, 6), (1, 1)])
def test_mixers_keep_maps_of_any_size(name, map_size):
    for block in (0, 1):
        mixer = Mixer.of(name)(16, 2, map_size=map_size, block=block)
        for size in (map_size, (5, 9)):
            x = torch.randn(2, *size, 16, requires_grad=True)
            y = mixer(x)
            assert y.shape == x.shape
            y.square().sum().backward()
            assert x.grad.isfinite().all() and all(
                p.grad.isfinite().all() for p in mixer.parameters() if p.grad is not None
            )


@pytest.mark.parametrize("name", [name for name in MIXERS if Mixer.of(name).takes_prefix])
def test_tokens_in_front_of_the_map_see_it(name):
    mixer = Mixer.of(name)(16, 2, map_size=(4, 3), num_prefix_tokens=1)
    x = torch.randn(1, 13, 16)
    y = mixer(x, (4, 3))
    assert y.shape == x.shape
    x[:, 5] += 1
    assert not torch.allclose(mixer(x, (4, 3))[:, 0], y[:, 0])


def test_entries_are_names_factories_and_mappings():
    kernel = {"name": "neighborhood", "kernel_size": 3}
    for entry in (kernel, {"name": NeighborhoodAttention2d, "kernel_size": 3}):
        mixer = Mixer.of(entry)(8, 2, map_size=(4, 4), block=0)
        assert isinstance(mixer, NeighborhoodAttention2d) and mixer.kernel_size == 3
    own = Mixer.of(lambda dim, num_heads, **given: nn.Linear(dim, dim, **{k: given[k] for k in ("dtype",)}))
    assert own(8, 2, map_size=(4, 4), block=0, dtype=torch.float64).weight.dtype == torch.float64


def test_one_a_stage_and_one_a_block():
    names = [[m.name for m in stage] for stage in model_mixers(["grid", ["channel", "channel", "softmax"]], (2, 4))]
    assert names == [["grid"] * 2, ["channel", "channel", "softmax", "softmax"]]
    assert [m.name for m in stage_mixers("window", 3)] == ["window"] * 3


@pytest.mark.parametrize(
    "mixer, message",
    [
        ("neighbourhood", "there is no mixer 'neighbourhood'; the nearest name is 'neighborhood'"),
        (
            {"name": "neighborhood", "kernel": 3},
            "the mixer 'neighborhood' has no option 'kernel': it has kernel_size, ",
        ),
        ({"kernel_size": 3}, 'a mapping with a "name", not'),
        (3, 'a mapping with a "name", not 3'),
        (["window"] * 3, "mixer has 3 entries, and the model 2 stages"),
        ([["window"] * 3, "window"], "mixer has 3 entries for a stage of 2 blocks"),
    ],
)
def test_mistakes_are_named(mixer, message):
    with pytest.raises(ValueError) as error:
        model_mixers(mixer, (2, 4))
    assert message in str(error.value)
