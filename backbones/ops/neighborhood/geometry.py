"""Which keys a query's window holds.

The window of a query slides with it and is clamped at the borders of the map (of its dilation group), so it always
holds exactly K x K keys. With a stride s > 1 the s queries of a stride group share the window of the one in their
middle, the leader: s = K is blocked attention (the window attention of Swin where the map divides), and s between 1 and
K lies between the two. One axis at a time, for a query at position i of n, dilation d and stride s <= K:

- its group holds the L positions g, g + d, g + 2d, ... with g = i mod d, of which the query is number p = i // d;
- its leader is number c = (p // s) * s + s // 2 of the group, or would be if the group were long enough;
- its window starts at b = min(max(c - K // 2, 0), L - K); slot t is the key at g + (b + t) * d;
- a position table is read at (b + t) - p + K - 1: the key minus the query, in units of d, plus K - 1. As s <= K, the
  window always holds the query itself, so that 2K - 1 entries are enough for every stride.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from backbones.ops.cache import shape_cache
from backbones.ops.sizes import static_size

Pair = int | tuple[int, int]


class Window(NamedTuple):
    """Kernel size, dilation and stride, each rows before columns."""

    kernel: tuple[int, int]
    dilation: tuple[int, int]
    stride: tuple[int, int]

    @classmethod
    def checked(cls, height: int, width: int, kernel_size: Pair, dilation: Pair, stride: Pair = 1) -> Window:
        """A window that fits into a map of `height` x `width`.

        Raises:
            ValueError: An even kernel size, a stride above it, or a map smaller than kernel size times dilation.
        """
        pairs = ((x, x) if isinstance(x, int) else tuple(x) for x in (kernel_size, dilation, stride))
        kernel, dilations, strides = pairs
        if len(kernel) != 2 or any(s < 1 or s % 2 == 0 for s in kernel):
            raise ValueError(f"kernel_size must be an odd positive number or a pair of them, got {kernel_size}.")
        if len(dilations) != 2 or any(d < 1 for d in dilations):
            raise ValueError(f"dilation must be a positive number or a pair of them, got {dilation}.")
        if len(strides) != 2 or any(not 1 <= s <= k for s, k in zip(strides, kernel)):
            raise ValueError(
                f"stride must be 1 to the kernel size {kernel_size}, or a pair of such numbers, got {stride}."
            )
        least = kernel[0] * dilations[0], kernel[1] * dilations[1]
        if height < least[0] or width < least[1]:
            raise ValueError(
                f"a map of {height} x {width} is too small for kernel size {kernel[0]} x {kernel[1]} and dilation"
                f" {dilations[0]} x {dilations[1]}: pad it to at least {least[0]} x {least[1]} or use a smaller"
                " dilation or kernel."
            )
        return cls(kernel, dilations, strides)

    @property
    def taps(self) -> int:
        """Keys of a window."""
        return self.kernel[0] * self.kernel[1]

    def indices(self, height: int, width: int, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
        """`window_index` of both axes of a map."""
        sizes = static_size(height), static_size(width)
        return tuple(window_index(*axis, device) for axis in zip(sizes, *self))


def window_start(position: Any, length: Any, kernel: int, stride: int) -> Any:
    """First key of the window of the query at `position` of a group of `length`; ints, or tensors that broadcast."""
    start = position // stride * stride + stride // 2 - kernel // 2 if stride > 1 else position - kernel // 2
    if isinstance(start, Tensor):
        return torch.minimum(start.clamp(min=0), length - kernel)
    return min(max(start, 0), length - kernel)


def key_range(first: int, count: int, length: int, kernel: int, stride: int) -> tuple[int, int]:
    """First key and number of keys that the windows of `count` queries from `first` on cover."""
    starts = [window_start(p, length, kernel, stride) for p in (first, first + count - 1)]
    return starts[0], starts[1] + kernel - starts[0]


def group_lengths(size: int, dilation: int, group: Any) -> Any:
    """Positions of an axis that a dilation group has."""
    return (size - 1 - group) // dilation + 1


def bias_entry(query: Tensor, start: Tensor, key: Tensor, kernel: int) -> Tensor:
    """Entry of a position table's axis for queries, their windows' starts and keys, all positions of a group.

    0 to 2K - 2, or 2K - 1 where the key is not in the query's window; the arguments broadcast.
    """
    inside = (key >= start) & (key < start + kernel)
    return torch.where(inside, key - query + kernel - 1, 2 * kernel - 1)


@shape_cache(256)
def window_index(size: int, kernel: int, dilation: int, stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Window of every position of one axis.

    Returns:
        key position (n, K), bias row (n, K): where the keys of the window are and where their bias is in the table.
    """
    i = torch.arange(size, device=device).unsqueeze(1)
    slot = torch.arange(kernel, device=device).unsqueeze(0)
    group, p = i % dilation, i // dilation
    start = window_start(p, group_lengths(size, dilation, group), kernel, stride)
    return group + (start + slot) * dilation, start + slot - p + kernel - 1
