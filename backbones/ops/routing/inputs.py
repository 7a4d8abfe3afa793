"""What the backends of the operator are given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class RoutedInputs(NamedTuple):
    """Queries (B, R, t, D), keys and values (B, R, m, D + C), routed regions (B, R, k) and their factors or None."""

    q: Tensor
    kv: Tensor
    index: Tensor
    weight: Tensor | None
    num_heads: int
    scale: float
