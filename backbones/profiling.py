"""What a model costs: parameters and multiply-adds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbones.layers.neighborhood import use_backend


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(p.numel() for p in model.parameters())


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count the multiply-adds of what runs inside the block, twice each; neighborhood attention without its padding."""
    with torch.no_grad(), use_backend("reference"), FlopCounterMode(display=False) as counter:
        yield counter


def count_macs(model: nn.Module, input_size: Sequence[int]) -> int:
    """Multiply-adds of one image's forward pass in eval mode: convolutions, linears and attention products.

    Runs a copy on the meta device, so nothing is computed. Neighborhood attention counts its K x K keys a query, not
    what the padding of its tiles adds.

    Args:
        model: Any image model.
        input_size: `(in_chans, H, W)`.
    """
    model = copy.deepcopy(model).to("meta").eval()
    dtype = next(model.parameters()).dtype
    with counting() as counter:
        model(torch.empty(1, *input_size, device="meta", dtype=dtype))
    return counter.get_total_flops() // 2
