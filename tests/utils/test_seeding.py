"""Seeds by purpose, and the generators that they set."""

from __future__ import annotations

import random

import numpy as np
import torch

from backbones.utils.seeding import mix_seed, seed_all, seeded


def test_seeds_of_different_purposes_differ():
    assert mix_seed(1, "a", 2) == mix_seed(1, "a", 2)
    assert len({mix_seed(1, "a", 2), mix_seed(1, "a", 3), mix_seed(1, "b", 3), mix_seed(1, "a")}) == 4


def test_seeded_blocks_leave_the_generators_alone():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = _draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with seeded(1):
        inside = _draw()
    assert _draw() == expected
    with seeded(1):
        assert _draw() == inside != expected


def test_all_generators_are_seeded():
    seed_all(3, "step", 7)
    expected = _draw()
    _draw()
    seed_all(3, "step", 7)
    assert _draw() == expected
    seed_all(3, "step", 8)
    assert not set(_draw()) & set(expected)


def _draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))
