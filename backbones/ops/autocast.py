"""Leaving autocast where a product's type matters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps

import torch


def no_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which products keep the type of their factors."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def backward_without_autocast(backward: Callable) -> Callable:
    """Decorate the backward of an autograd function so that it computes alike inside and outside of autocast."""

    @wraps(backward)
    def wrapped(ctx, grad: torch.Tensor):
        with no_autocast(grad.device):
            return backward(ctx, grad)

    return wrapped
