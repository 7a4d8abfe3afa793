"""What the backends of the operator are given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DenseInputs(NamedTuple):
    """softmax(scale * q @ k + bias) @ v with q (B, heads, N, c), k (B, heads, M, c), v (B, heads, M, d).

    The bias, or None, broadcasts to (B, heads, N, M) and is -inf where a query must not attend; `dropout` is the
    probability that a weight is dropped.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    dropout: float
    scale: float
