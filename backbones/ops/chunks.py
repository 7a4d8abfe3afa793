"""Computing in chunks: so few images, or rows of one image, at a time that hidden maps stay small."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import wraps

import torch
from torch import nn

from backbones.ops.onednn import can_fuse
from backbones.ops.plain import Extent, extent

# Values of a hidden map, 16 MiB. The C library keeps up to twice as much for the next map, instead of returning it to
# the system, whose fresh pages take longer than the arithmetic.
CHUNK = 1 << 22

# No layer widens its input more; smaller maps need not be looked at.
_WIDEST = 16


def chunkable(axis: int) -> Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]]:
    """Decorate the `forward` of a module that, in inference on CPU, may be computed in chunks.

    It must treat every image by itself, and do nothing but call its submodules, in the order of their definition, and
    elementwise arithmetic. If they are plain (see `backbones.ops.plain`), large batches are computed a few images at a
    time, and where rows of the result depend on rows nearby only, large images a few rows at a time.

    Args:
        axis: That of the rows: 1 for maps `(B, H, W, C)`, 2 for `(B, C, H, W)`.
    """

    def decorate(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @wraps(forward)
        def run(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return in_chunks(lambda part: forward(self, part), x, self.children, axis)

        return run

    return decorate


def in_chunks(
    function: Callable[..., torch.Tensor],
    x: torch.Tensor,
    modules: Callable[[], Iterable[nn.Module]],
    axis: int,
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """`function(x)`, or `function(x, beside)`, of a few images or rows at a time as in `chunkable`.

    Args:
        function: Of a batch, for each image by itself.
        x: `(B, ...)`.
        modules: Gives the modules that the function calls, in their order.
        axis: That of the rows, in `x` and in the result.
        beside: The function's second argument, cut as `x` is.
    """
    arguments = (x,) if beside is None else (x, beside)
    if x.dim() < 2 or not can_fuse(x, x) or x.numel() * _WIDEST <= CHUNK:
        return function(*arguments)
    need = extent(modules())
    return function(*arguments) if need is None else _image_chunks(function, arguments, need, axis)


def _image_chunks(
    function: Callable[..., torch.Tensor], arguments: tuple[torch.Tensor, ...], need: Extent, axis: int
) -> torch.Tensor:
    batch = arguments[0].shape[0]
    if batch == 1 or (values := _values(arguments[0], need, axis)) <= CHUNK:
        return join(row_chunks(function, arguments, need, axis), axis)
    images = _even(batch, batch * CHUNK / values)
    parts = zip(*(argument.split(images) for argument in arguments), strict=True)
    return torch.cat([_image_chunks(function, part, need, axis) for part in parts])


def row_chunks(
    function: Callable[..., torch.Tensor], arguments: tuple[torch.Tensor, ...], need: Extent, axis: int
) -> list[torch.Tensor]:
    """The rows of `function(*arguments)`, of one image some rows at a time; of more images, or a small one, all.

    Args:
        function: It may pad; what that does to the ends of a chunk is cut off again. All chunks have, like the image, a
            multiple of the stride as rows (an image that has not is done whole), so that they are padded alike.
        arguments: The map, and what is cut as it is.
        need: The function's extent.
        axis: That of the rows, in the arguments and in the result.
    """
    x = arguments[0]
    height, values, stride = x.shape[axis], _values(x, need, axis), need.stride
    if x.shape[0] > 1 or values <= CHUNK or need.halo == math.inf or height % stride:
        return [function(*arguments)]
    halo = math.ceil(need.halo / stride) * stride
    results = height // stride
    rows = max(4 * halo // stride, _even(results, results * CHUNK / values))
    chunks = []
    for first in range(0, results, rows):
        count = min(rows, results - first)
        low = max(stride * first - halo, 0)
        high = min(stride * (first + count) + halo, height)
        chunk = function(*(argument.narrow(axis, low, high - low) for argument in arguments))
        chunks.append(chunk.narrow(axis, first - low // stride, count))
    return chunks


def join(chunks: list[torch.Tensor], axis: int) -> torch.Tensor:
    """The chunks one after another; no copy of a single one."""
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=axis)


def _values(x: torch.Tensor, need: Extent, axis: int) -> float:
    """Values of the largest hidden map."""
    return x.numel() / x.shape[-1 if axis == 1 else 1] * need.width


def _even(total: int, most: float) -> int:
    """Length of the parts when `total` is cut into as few as hold at most `most` each, and as even as can be."""
    return math.ceil(total / math.ceil(total / max(1, int(most))))
