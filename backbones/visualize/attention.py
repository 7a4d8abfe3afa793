"""Weights of attention of any layer, also of those that never compute them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.visualize.layers import Values, described


class _Probe(NamedTuple):
    """A layer's output as a function of codes in the place of its values.

    Attributes:
        values: What the codes are made of.
        source: `(B, ..., C)`: channel h is the code of what head h sees at a key.
        result: `(B, N, heads, c)`.
        size: `(H, W)` of the result; None of tokens.
    """

    values: Values
    source: Tensor
    result: Tensor
    size: tuple[int, int] | None


class LayerAttention:
    """How much every position of a map has gone into another one, in every head of a layer.

    The weight of key j for query i is the derivative of the result at i with respect to the value at j, with queries,
    keys, biases and choices as they were. Of softmax attention that is the softmax; and it exists of any layer whose
    result is linear in its values, however it computes it: windows, routed regions, agents, super tokens, linear
    attention, dynamic convolutions. Of a head whose channels have weights of their own (dynamic convolutions), it is
    their mean. Local position encodings and the output projection are left out; gates of heads are part of it, as are
    weights of several keys at one position.

    The layer is called again, on the inputs that it had, in the type of its parameters. Where that is another type than
    under the autocast of the first call, choices of regions or heads that were nearly tied may differ.

    Keys that are no positions (zero padding, learned tokens) have no place on the map, so a sum over it can be below 1.
    The weight of a cell of a reduced map is divided among its positions.

    Made by :func:`capture_attention`.

    Attributes:
        name: Of the layer in the model.
        layer: The layer.
        size: `(H, W)` of the map.
        query_size: `(H, W)` of the queries; smaller where the layer reduces the map.
        num_heads: Heads; of depthwise convolutions, channels.
        num_prefix_tokens: Tokens in front of the map.
    """

    def __init__(
        self, name: str, layer: nn.Module, args: tuple, kwargs: dict, num_prefix_tokens: int, aspect: float
    ) -> None:
        self.name, self.layer = name, layer
        self._args, self._kwargs = _detached(args), _detached(kwargs)
        x = self._args[0]
        if x.ndim == 4:
            first = "input" in described(layer)[0].first
            self.size, self.num_prefix_tokens = tuple(x.shape[2:] if first else x.shape[1:3]), 0
        else:
            grids = [a for a in (*self._args[1:], *self._kwargs.values()) if _is_grid(a)]
            self.size = tuple(grids[0]) if grids else fitted_grid(x.shape[1] - num_prefix_tokens, aspect)
            self.num_prefix_tokens = x.shape[1] - self.size[0] * self.size[1]

    @property
    def num_heads(self) -> int:
        return sum(values.heads(self.layer) for values in described(self.layer))

    @property
    def query_size(self) -> tuple[int, int]:
        return self._probes[0].size or self.size

    def at(self, y: int, x: int, image: int = 0) -> Tensor:
        """The weights `(heads, H, W)` of all positions for the query at row y and column x of the map.

        Raises:
            IndexError: The place is outside of the map.
        """
        height, width = self.size
        if not (0 <= y < height and 0 <= x < width):
            raise IndexError(f"({y}, {x}) is outside of the map of {height} x {width} positions")
        rows, columns = self.query_size
        return self.of_token(self.num_prefix_tokens + y * rows // height * columns + x * columns // width, image)

    def of_token(self, index: int, image: int = 0) -> Tensor:
        """The same for a token, such as the class token, which is 0 where there is one."""
        with torch.inference_mode(False), torch.enable_grad():
            return torch.cat([self._weights(probe, index, image) for probe in self._probes])

    def _weights(self, probe: _Probe, index: int, image: int) -> Tensor:
        heads = probe.result.shape[2]
        total = probe.result[image, index].mean(-1).sum()
        (codes,) = torch.autograd.grad(total, probe.source, retain_graph=True)
        positions = probe.values.keys == "positions"
        codes = codes[image].movedim(0, -1) if positions and "input" in probe.values.first else codes[image]
        codes = codes[..., :heads].movedim(-1, 0).detach()
        if positions:
            return codes.flatten(1)[:, self.num_prefix_tokens :].unflatten(1, self.size)
        height, width = self.size
        before = height * width if probe.values.keys == "both" else 0
        if codes.ndim == 2:
            grid = fitted_grid(codes.shape[1] - before, height / width)
            own, cells = codes[:, :before], codes[:, before:].unflatten(1, grid)
        else:
            own, cells = codes[:, :0], codes
        spread = _spread(cells, self.size)
        return spread + own.unflatten(1, self.size) if before else spread

    @cached_property
    def _probes(self) -> list[_Probe]:
        """One for each place that the layer has values in."""
        with torch.inference_mode(False), torch.enable_grad():
            return [self._probe(values) for values in described(self.layer)]

    def _probe(self, values: Values) -> _Probe:
        layer, heads = self.layer, values.heads(self.layer)
        dtype = next(layer.parameters()).dtype
        args, kwargs = _detached((self._args, self._kwargs), dtype)
        place = values.argument if len(args) > values.argument and args[values.argument] is not None else 0
        source = [args[place].requires_grad_()]

        def enter(module: nn.Module, given: tuple, out: Tensor) -> Tensor:
            source[0] = out.detach().requires_grad_()
            return source[0]

        def encode(module: nn.Module, given: tuple, out: Tensor) -> Tensor:
            taken = given[0]
            if values.keys != "positions":
                source[0] = taken = taken.detach().requires_grad_()
            out = out.detach().clone()
            taken, last = (t.movedim(1, -1) if "values" in values.first else t for t in (taken, out))
            view = values.view(layer, last)
            view.copy_(taken[..., :heads, None].expand_as(view))
            if values.gate is not None:
                values.gate(layer, last).fill_(1)
            return out

        hooks: dict[str, Callable] = {name: lambda module, given, out: given[0] for name in values.after}
        if values.module:
            hooks[values.module] = encode
        if values.entry:
            hooks[values.entry] = enter
        path = (*hooks, *values.through)  # what leads from keys to the result: all else is held as it is
        with contextlib.ExitStack() as stack:
            for name, module in layer.named_modules():
                hook = hooks.get(name)
                apart = not any(f"{name}.".startswith(f"{p}.") or f"{p}.".startswith(f"{name}.") for p in path)
                if name and apart and next(module.parameters(recurse=False), None) is not None:
                    hook = _detach
                if hook is not None:
                    stack.callback(module.register_forward_hook(hook).remove)
            out = layer(*args, **kwargs)
        out = out[0] if isinstance(out, tuple) else out
        out = out.movedim(1, -1) if "output" in values.first else out
        out = out.chunk(values.result[1], -1)[values.result[0]]
        size = tuple(out.shape[1:3]) if out.ndim == 4 else None
        return _Probe(values, source[0], out.flatten(1, -2).unflatten(-1, (heads, -1)), size)


@contextlib.contextmanager
def capture_attention(model: nn.Module) -> Iterator[dict[str, LayerAttention]]:
    """Inside, what a model's layers attend to is kept: `maps[name].at(y, x)` is `(heads, H, W)`.

    Layers keep their inputs, and nothing else changes; weights are computed where they are asked for, also after the
    block. Names are in the order of the calls.

    Example::

        with capture_attention(model) as maps, torch.no_grad():
            model(images)
        heat = maps["stages.2.blocks.0.attn"].at(7, 7)

    Args:
        model: A model of the zoo or of timm, or a layer, in evaluation mode.

    Raises:
        ValueError: The model is in training mode, or has no layer with weights of positions.
    """
    if model.training:
        raise ValueError("attention is captured in evaluation mode: call model.eval() first")
    layers = {name: module for name, module in model.named_modules() if described(module) is not None}
    layers = {name: layer for name, layer in layers.items() if not _inside(name, layers)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no layer that weighs positions against each other")
    maps: dict[str, LayerAttention] = {}
    image_aspect = [1.0]

    def look(module: nn.Module, args: tuple) -> None:
        if args and isinstance(args[0], Tensor) and args[0].ndim == 4:
            image_aspect[0] = args[0].shape[2] / args[0].shape[3]

    def keeping(name: str) -> Callable:
        def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
            prefix = getattr(model, "num_prefix_tokens", 0)
            maps.pop(name, None)
            maps[name] = LayerAttention(name, module, args, kwargs, prefix, image_aspect[0])

        return keep

    with contextlib.ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(look).remove)
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(keeping(name), with_kwargs=True).remove)
        yield maps


def fitted_grid(count: int, aspect: float) -> tuple[int, int]:
    """Rows and columns of a map of `count` positions whose quotient is the nearest to `aspect`."""
    sides = [(n, count // n) for n in range(1, count + 1) if count % n == 0]
    return min(sides, key=lambda side: abs(torch.tensor(side[0] / side[1] / aspect).log().item()))


def _inside(name: str, others: Sequence[str] | dict) -> bool:
    return any(name != other and name.startswith(f"{other}." if other else "") for other in others)


def _detach(module: nn.Module, given: tuple, out: Any) -> Any:
    return _detached(out, copy=False)


def _is_grid(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(side, int) for side in value)


def _detached(value: Any, dtype: torch.dtype | None = None, copy: bool = True) -> Any:
    """Tensors in nested containers without their history, in a floating type where one is given."""
    if isinstance(value, Tensor):
        value = value.detach()
        value = value.clone() if copy else value
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_detached(item, dtype, copy) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_detached(item, dtype, copy) for item in value)
    if isinstance(value, dict):
        return {key: _detached(item, dtype, copy) for key, item in value.items()}
    return value


def _spread(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Weights `(heads, P, Q)` of cells on the positions of a map; each cell's are divided equally."""
    number = torch.arange(cells.shape[1] * cells.shape[2], dtype=torch.float32).view(1, 1, *cells.shape[1:])
    places = F.interpolate(number, size=size, mode="nearest").long().flatten().to(cells.device)
    counts = places.bincount(minlength=number.numel()).clamp(min=1)
    return (cells.flatten(1) / counts)[:, places].unflatten(1, size)
