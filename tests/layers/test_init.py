"""Initial values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.layers.init import init_fan_out


@pytest.mark.parametrize(
    ("module", "fan_out"),
    [
        (nn.Conv2d(64, 96, 3), 9 * 96),
        (nn.Conv2d(512, 512, 5, groups=512), 25),
        (nn.Conv2d(128, 256, (1, 3), groups=4, bias=False), 3 * 64),
        (nn.Linear(96, 200), 200),
    ],
)
def test_variance_is_two_over_the_outputs_that_an_input_reaches(module, fan_out):
    torch.manual_seed(0)
    init_fan_out(module)
    assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert module.weight.mean().item() == pytest.approx(0, abs=0.1 * fan_out**-0.5)
    assert module.bias is None or not module.bias.any()
