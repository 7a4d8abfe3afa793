"""In which precision operators compute, and how gradients come from their definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """The tensor in float32 where it is half or bfloat16: too coarse for pixel coordinates, which reach thousands."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def gradients(forward: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the inputs of a function, which is run once more."""
    inputs = [exact(x).detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        out = forward(*inputs)
    return torch.autograd.grad(out, inputs, grad_output.to(out.dtype))
