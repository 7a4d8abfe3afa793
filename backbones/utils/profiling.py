"""What a model costs: parameters, multiply-adds and memory traffic."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbones._compat import TorchDispatchMode, tree_leaves
from backbones.ops.neighborhood import use_backend


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(p.numel() for p in model.parameters())


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count the multiply-adds of what runs inside the block, twice each; operators by their definition."""
    with torch.no_grad(), use_backend("reference"), FlopCounterMode(display=False) as counter:
        yield counter


def count_macs(model: nn.Module, input_size: Sequence[int]) -> int:
    """Multiply-adds of one image's forward pass in eval mode: convolutions, linears and attention products.

    Runs a copy on the meta device, so nothing is computed. Neighborhood attention counts its K x K keys a query and
    routed attention the tokens of its routed regions, not what padding or masks add.

    Args:
        model: Any image model.
        input_size: `(in_chans, H, W)`.
    """
    model = copy.deepcopy(model).to("meta").eval()
    dtype = next(model.parameters()).dtype
    with counting() as counter:
        model(torch.empty(1, *input_size, device="meta", dtype=dtype))
    return counter.get_total_flops() // 2


_VIEWS = ("aten::detach", "aten::_unsafe_view")  # of no effect on memory, though not declared as views


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of inputs and outputs of every operator that is not a mere view."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.name() not in _VIEWS:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in {id(x): x for x in tensors}.values())
        return out


def count_traffic(model: nn.Module, input_size: Sequence[int]) -> int:
    """Bytes read and written by one image's forward pass if every operator goes to memory, weights included.

    Fused operators and caches need less, so that time below this over the memory's rate is possible; see the roofline
    of `tools/benchmark.py`. Runs a copy on the meta device.

    Args:
        model: Any image model.
        input_size: `(in_chans, H, W)`.
    """
    model = copy.deepcopy(model).to("meta").eval()
    dtype = next(model.parameters()).dtype
    image = torch.empty(1, *input_size, device="meta", dtype=dtype)
    with torch.no_grad(), _Traffic() as traffic:
        model(image)
    return traffic.bytes
