"""Which modules may be computed otherwise than by calling them.

Fusing modules into one kernel, or computing them in chunks, goes around their `forward` and their hooks. So that may be
done only with modules that are exactly what their class says: all others, such as a linear layer that was replaced by a
LoRA or an int8 one, and modules that somebody watches through hooks, are called, once, on their whole input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import nn

from backbones._compat import has_global_hooks

Class = TypeVar("Class", bound=type[nn.Module])

_TENSORS = (nn.Parameter, torch.Tensor, type(None))  # not their subclasses, such as those of quantised weights


class _Kind(NamedTuple):
    """What is known of a class of modules in evaluation."""

    forward: Callable  # when it was registered: code may have replaced it since
    row_local: bool
    parallel: bool


_KINDS: dict[type[nn.Module], _Kind] = {}


def register(*classes: type[nn.Module], row_local: bool = True, parallel: bool = False) -> None:
    """Let modules of exactly these classes be fused and computed in chunks.

    In evaluation they must treat every image by itself. A class with submodules must do nothing but call them, and
    arithmetic of the kind that `row_local` states.

    Args:
        classes: Classes of modules.
        row_local: A row of the result depends only on those rows of the input that its own convolutions see.
        parallel: Its submodules are beside each other; else one follows the other, in the order of their definition.
    """
    for cls in classes:
        _KINDS[cls] = _Kind(cls.forward, row_local, parallel)


def plain(row_local: bool = True, parallel: bool = False) -> Callable[[Class], Class]:
    """Decorator that registers a class; see `register`."""

    def decorate(cls: Class) -> Class:
        register(cls, row_local=row_local, parallel=parallel)
        return cls

    return decorate


register(nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.LayerNorm, nn.Sequential, nn.ModuleList)
register(nn.GELU, nn.SiLU, nn.ReLU, nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Identity, nn.Dropout)


def is_watched(module: nn.Module) -> bool:
    """Whether somebody watches a module, or one of its submodules, through hooks."""
    return has_global_hooks() or any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in module.modules()
    )


def is_plain(module: nn.Module) -> bool:
    """Whether a module, its submodules aside, is exactly what its class says, and nobody watches it."""
    kind = _KINDS.get(type(module))
    if kind is None or type(module).forward is not kind.forward:
        return False
    own = module.__dict__
    if (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
        or own.get("_compiled_call_impl") is not None
        or has_global_hooks()
    ):
        return False
    return all(type(tensor) in _TENSORS for tensor in own["_parameters"].values())


class Extent(NamedTuple):
    """What a chain of modules needs, from its input to its result."""

    width: float = 0  # channels of its largest map, at the resolution of the input
    halo: float = 0  # rows around row `stride * r` of the input that row r of the result depends on; may be infinite
    stride: int = 1  # rows of the input for one of the result


def extent(modules: Iterable[nn.Module], before: Extent = Extent()) -> Extent | None:  # noqa: B008
    """The extent of modules that follow each other, or None where they must be called on their whole input.

    That is where one of them, or of their submodules, is not plain, in training mode, or a norm by the batch's own
    statistics.

    Args:
        modules: Modules in the order of their computation.
        before: The extent of those before them.
    """
    for module in modules:
        if module.training or not is_plain(module):
            return None
        width, halo, stride = before
        if isinstance(module, nn.Linear):
            width = max(width, module.out_features / stride**2)
        elif isinstance(module, nn.Conv2d):
            if isinstance(module.padding, str) or module.padding_mode != "zeros":
                return None
            span, above = module.dilation[0] * (module.kernel_size[0] - 1), module.padding[0]
            halo += stride * max(above, span - above)
            stride *= module.stride[0]
            width = max(width, module.out_channels / stride**2)
        elif isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)) and module.running_mean is None:
            return None
        kind = _KINDS[type(module)]
        found: Extent | None = Extent(width, halo if kind.row_local else math.inf, stride)
        if kind.parallel:
            branches = [extent((leaf,), found) for leaf in module.modules() if not leaf._modules]
            found = None if None in branches else Extent(*map(max, zip(*branches)))
        elif module._modules:
            found = extent(filter(None, module._modules.values()), found)
        if found is None:
            return None
        before = found
    return before
