"""What differs between two checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Difference:
    """Two state dicts compared.

    Attributes:
        only_a, only_b: Keys of one side.
        shapes: Keys of both in different shapes, with both shapes.
        numbers: Keys of both with different numbers: the largest absolute difference, and it over the largest absolute
            number of A; most different first.
        equal: Number of keys that agree exactly.
    """

    only_a: list[str]
    only_b: list[str]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    numbers: dict[str, tuple[float, float]]
    equal: int

    def __bool__(self) -> bool:
        return bool(self.only_a or self.only_b or self.shapes or self.numbers)


def diff(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> Difference:
    """Compare two state dicts; NaNs in the same place are equal."""
    shapes, numbers, equal = {}, {}, 0
    for key in a.keys() & b.keys():
        x, y = a[key], b[key]
        if x.shape != y.shape:
            shapes[key] = (tuple(x.shape), tuple(y.shape))
            continue
        x, y = x.double(), y.double()
        if torch.equal(x.nan_to_num(), y.nan_to_num()) and torch.equal(x.isnan(), y.isnan()):
            equal += 1
            continue
        largest = float((x - y).abs().max())
        numbers[key] = (largest, largest / max(float(x.abs().max()), torch.finfo(torch.float64).tiny))
    return Difference(
        only_a=[key for key in a if key not in b],
        only_b=[key for key in b if key not in a],
        shapes={key: shapes[key] for key in a if key in shapes},
        numbers=dict(sorted(numbers.items(), key=lambda item: (-item[1][1], item[0]))),
        equal=equal,
    )
