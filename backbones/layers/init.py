"""Initial values that several papers share."""

from __future__ import annotations

import math

from torch import nn


def init_fan_out(module: nn.Conv2d | nn.Linear) -> None:
    """Normal weights of variance 2 / (outputs that an input of a group reaches), bias 0, as in PVT's convolutions.

    Args:
        module: A convolution, or the linear layer that a 1x1 convolution is.
    """
    fan_out = module.weight.shape[0] * math.prod(module.weight.shape[2:]) // getattr(module, "groups", 1)
    nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
