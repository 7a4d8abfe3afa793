"""Modules one after another, fused into the kernels that oneDNN has for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import nn

from backbones._compat import is_plain_eager
from backbones.ops.chunks import join, row_chunks
from backbones.ops.onednn import can_fuse, conv2d, linear
from backbones.ops.plain import extent, is_plain

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class Product(Protocol):
    """A linear layer or convolution of ours that can be computed with another weight."""

    def forward_with(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str | None = None
    ) -> torch.Tensor:
        """The layer's forward with this weight and bias, and an activation as in `conv2d`."""


class ChannelGate(Protocol):
    """A module that scales and shifts the channels of a map by what all of the map says about them."""

    def scale_and_shift(self, chunks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scale `(B, C, 1, 1)` and shift `(1, C, 1, 1)`, of a map in chunks of rows."""


def fused(*modules: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function `x -> modules[-1](... modules[0](x))`.

    Where modules are plain (see `backbones.ops.plain`), and nothing captures a graph:

    - BatchNorms in evaluation are folded into the convolution after or before them (before a 1x1 convolution only,
      whose zero padding the shift would not have);
    - in inference on CPU a linear layer or convolution and the GELU after it are one kernel;
    - in inference on CPU, of a single image, a `ChannelGate` is folded into the 1x1 convolution after it, and the
      modules before it may be computed in chunks of rows.

    Norms are folded anew in every call, which takes 2 % of the time of `maxvit_t` on one image of 224 pixels, and less
    on larger ones: a folded weight that is kept could not notice changes through `Tensor.data`, which leave the version
    counter alone.
    """
    return partial(_run, modules)


def _run(modules: Sequence[nn.Module], x: torch.Tensor) -> torch.Tensor:
    if is_plain_eager() and len(modules) > 2 and hasattr(modules[-2], "scale_and_shift"):
        return _run_gated(modules[:-2], *modules[-2:], x)
    at = 0
    while at < len(modules):
        count = _kernel(modules[at : at + 4]) if is_plain_eager() else 1
        x = modules[at](x) if count == 1 else _run_kernel(modules[at : at + count], x)
        at += count
    return x


def _is_product(module: nn.Module) -> bool:
    if not is_plain(module) or not (type(module) in (nn.Linear, nn.Conv2d) or hasattr(module, "forward_with")):
        return False
    return isinstance(module, nn.Linear) or (module.padding_mode == "zeros" and not isinstance(module.padding, str))


def _is_pointwise(module: nn.Module) -> bool:
    """Whether it is a 1x1 convolution."""
    return (
        isinstance(module, nn.Conv2d)
        and _is_product(module)
        and module.kernel_size == module.stride == (1, 1)
        and module.padding == (0, 0)
        and module.groups == 1
    )


def _is_affine(module: nn.Module) -> bool:
    """Whether it is a BatchNorm that scales and shifts by constants."""
    return (
        isinstance(module, _NORMS)
        and not module.training
        and module.track_running_stats
        and module.affine
        and is_plain(module)
    )


def _kernel(modules: Sequence[nn.Module]) -> int:
    """How many of the modules, from the first, can be one kernel: [norm], product, [norm], [GELU]."""
    count = 1 if len(modules) > 1 and _is_affine(modules[0]) and _is_pointwise(modules[1]) else 0
    if not _is_product(modules[count]):
        return 1
    count += 1
    if len(modules) > count and isinstance(modules[count - 1], nn.Conv2d) and _is_affine(modules[count]):
        count += 1
    if len(modules) > count and isinstance(modules[count], nn.GELU) and is_plain(modules[count]):
        count += 1
    return count


def _run_kernel(modules: Sequence[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """Modules that `_kernel` counted."""
    product = next(module for module in modules if not isinstance(module, (*_NORMS, nn.GELU)))
    norms = [module for module in modules if isinstance(module, _NORMS)]
    if not norms and not can_fuse(x, product.weight):
        return modules[1](product(x))
    act = None
    if isinstance(modules[-1], nn.GELU):
        act = "gelu_tanh" if modules[-1].approximate == "tanh" else "gelu"
    if not norms:
        return _compute(product, x, product.weight, product.bias, act)
    before = norms[0] if norms[0] is modules[0] else None
    after = norms[-1] if norms[-1] is not before else None
    return _compute(product, x, *_folded(product, before, after), act)


def _compute(
    product: nn.Module, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str | None = None
) -> torch.Tensor:
    """The product with another weight and bias, and the activation that follows it."""
    if type(product) is nn.Linear:
        return linear(x, weight, bias, act)
    if type(product) is nn.Conv2d:
        return conv2d(x, weight, bias, product.stride, product.padding, product.dilation, product.groups, act)
    return product.forward_with(x, weight, bias, act)


def _scale_and_shift(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """A BatchNorm in evaluation as `scale * x + shift`, in float32 at least."""
    dtype = torch.promote_types(norm.weight.dtype, torch.float32)
    scale = norm.weight.to(dtype) * torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    return scale, norm.bias.to(dtype) - norm.running_mean.to(dtype) * scale


def _folded(
    conv: nn.Module, before: nn.Module | None, after: nn.Module | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of `after(conv(before(x)))`, with at least one norm."""
    weight, bias, factor = conv.weight, conv.bias, None
    dtype = torch.promote_types(weight.dtype, torch.float32)
    bias = None if bias is None else bias.to(dtype)
    if before is not None:
        factor, shift = _scale_and_shift(before)
        shift = weight.flatten(1).to(dtype) @ shift
        bias = shift if bias is None else bias + shift
    if after is not None:
        scale, shift = _scale_and_shift(after)
        bias = shift if bias is None else torch.addcmul(shift, bias, scale)
        factor = scale[:, None] if factor is None else scale[:, None] * factor
    return (weight * factor[..., None, None]).to(weight.dtype), bias.to(weight.dtype)


def _run_gated(modules: Sequence[nn.Module], gate: nn.Module, project: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`project(gate(...))`, the gate folded into the projection of a single image's rows."""
    if x.shape[0] == 1 and can_fuse(x, x) and _is_pointwise(project) and extent((gate, project)) is not None:
        need = extent(modules)
        rows = partial(_run, modules)
        chunks = [rows(x)] if need is None else row_chunks(rows, (x,), need, axis=2)
        scale, shift = gate.scale_and_shift(chunks)
        weight, bias = project.weight * scale, project.bias
        if shift is not None:
            shift = project.weight.flatten(1) @ shift.flatten()
            bias = shift if bias is None else bias + shift
        return join([_compute(project, chunk, weight, bias) for chunk in chunks], axis=2)
    return project(gate(_run(modules, x)))
