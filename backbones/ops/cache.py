"""Caching of tensors that depend on sizes and a device only (index tables, masks)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch

from backbones._compat import is_non_strict_export, is_plain_eager, outside_of_modes, tree_leaves

T = TypeVar("T")


def shape_cache(maxsize: int = 64) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorate a function of hashable arguments (ints, tuples, a device) that builds constant tensors.

    In plain eager mode the `maxsize` most recent results are kept. torch.export, for sizes that are numbers, gets a
    constant: else index arithmetic would be half of an exported graph, and most of the time that it takes to turn it
    into ONNX. While another graph is being captured (torch.compile, torch.jit.trace, symbolic sizes) or fake tensors
    are in use, the function runs inline and nothing is stored, so that symbolic sizes stay symbolic and no traced
    tensor outlives its trace.
    """

    def decorate(build: Callable[..., T]) -> Callable[..., T]:
        store: OrderedDict[tuple, T] = OrderedDict()

        @wraps(build)
        def cached(*args):
            if torch.jit.is_tracing():  # sizes are 0-d tensors there
                args = tuple(int(a) if isinstance(a, torch.Tensor) else a for a in args)
            if is_non_strict_export() and not any(isinstance(a, torch.SymInt) for a in tree_leaves(args)):
                with outside_of_modes():
                    return build(*args)
            if not is_plain_eager():
                return build(*args)
            if args in store:
                store.move_to_end(args)
                return store[args]
            # A tensor made under inference_mode could never be saved for a later backward pass.
            with torch.inference_mode(False), torch.no_grad():
                value = build(*args)
            store[args] = value
            if len(store) > maxsize:
                store.popitem(last=False)
            return value

        cached.cache_clear = store.clear
        return cached

    return decorate
