"""Operators as subjects, each against the plain form that papers and first implementations use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.ops.neighborhood import neighborhood_attention, neighborhood_av
from backbones.ops.routing import routed_attention


@dataclass(frozen=True)
class Case:
    """An operator with its inputs, ours and the plain form.

    Attributes:
        name: What is computed, with its sizes.
        ours, plain: From the inputs to the output; `ours` of neighborhood operators takes a `backend` too.
        inputs: Makes the inputs, of which those of floating point get gradients.
        flops: Of one forward pass, without what padding adds; 0 where they are not what counts.
        differentiable: Whether there is a backward pass.
    """

    name: str
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    inputs: Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]
    flops: int
    differentiable: bool = True


def unfold_attention(q: Tensor, k: Tensor, v: Tensor, kernel: int, dilation: int, bias: Tensor) -> Tensor:
    """Neighborhood attention over `F.unfold`ed copies of keys and values; exact inside, zero keys beyond the border.

    The copies are what this form costs; clamping windows at the border would only add to it.
    """
    b, h, w, heads, dim = q.shape

    def windows(x: Tensor) -> Tensor:
        columns = F.unfold(x.permute(0, 3, 4, 1, 2).flatten(1, 2), kernel, dilation, dilation * (kernel // 2))
        return columns.view(b, heads, dim, kernel * kernel, h * w)

    logits = torch.einsum("bnhd,bhdkn->bhnk", q.flatten(1, 2), windows(k)) * dim**-0.5
    centre = bias[:, kernel // 2 : kernel // 2 + kernel, kernel // 2 : kernel // 2 + kernel].flatten(1)
    attn = (logits + centre[None, :, None]).softmax(-1)
    return torch.einsum("bhnk,bhdkn->bnhd", attn, windows(v)).reshape(q.shape)


def unfold_product(attn: Tensor, v: Tensor, kernel: int) -> Tensor:
    """ContMix's product over `F.unfold`ed copies of the values, zero beyond the border."""
    b, heads, h, w, _ = attn.shape
    columns = F.unfold(v.permute(0, 1, 4, 2, 3).flatten(1, 2), kernel, padding=kernel // 2)
    columns = columns.view(b, heads, v.shape[-1], kernel * kernel, h * w)
    return torch.einsum("bhnk,bhdkn->bhnd", attn.flatten(2, 3), columns).view(v.shape)


def gathered_attention(q: Tensor, kv: Tensor, index: Tensor, num_heads: int) -> Tensor:
    """Bi-level routing attention that copies every region's routed keys and values (BiFormer, equations 5 and 6)."""
    b, regions, _, dim = q.shape
    top = index.shape[-1]
    rows = index.view(b, -1, 1, 1).expand(-1, -1, kv.shape[2], kv.shape[3])
    routed = kv.gather(1, rows).view(b, regions, top * kv.shape[2], -1)
    k, v = routed[..., :dim], routed[..., dim:]

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (num_heads, -1)).transpose(2, 3)

    logits = heads(q) @ heads(k).transpose(-1, -2) * (dim // num_heads) ** -0.5
    return (logits.softmax(-1) @ heads(v)).transpose(2, 3).flatten(3)


def attention_case(height: int, width: int, heads: int, dim: int, kernel: int, dilation: int, batch: int) -> Case:
    """Neighborhood attention with a position table."""

    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        q, k, v = torch.randn(3, batch, height, width, heads, dim, device=device, dtype=dtype)
        return q, k, v, torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1, device=device, dtype=dtype)

    return Case(
        f"neighborhood attention {height}x{width}, {heads} heads of {dim}, kernel {kernel}, dilation {dilation}",
        lambda q, k, v, bias=None, backend="auto": neighborhood_attention(
            q, k, v, kernel, dilation, bias, backend=backend
        ),
        lambda q, k, v, bias: unfold_attention(q, k, v, kernel, dilation, bias),
        inputs,
        4 * batch * height * width * heads * dim * kernel**2,
    )


def product_case(height: int, width: int, heads: int, dim: int, kernel: int, batch: int) -> Case:
    """ContMix's product of dynamic kernels with the values."""

    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        attn = torch.rand(batch, heads, height, width, kernel * kernel, device=device, dtype=dtype)
        return attn, torch.randn(batch, heads, height, width, dim, device=device, dtype=dtype)

    return Case(
        f"ContMix {height}x{width}, {heads} heads of {dim}, kernel {kernel}",
        lambda attn, v, backend="auto": neighborhood_av(attn, v, kernel, backend=backend),
        lambda attn, v: unfold_product(attn, v, kernel),
        inputs,
        2 * batch * height * width * heads * dim * kernel**2,
    )


def routing_case(height: int, width: int, stride: int, dim: int, top: int, batch: int = 1, regions: int = 7) -> Case:
    """Bi-level routing attention of a stage of BiFormer on an image of `height` x `width` pixels."""
    tokens = -(-height // stride // regions) * -(-width // stride // regions)
    heads = dim // 32

    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        count = regions * regions
        q = torch.randn(batch, count, tokens, dim, device=device, dtype=dtype)
        kv = torch.randn(batch, count, tokens, 2 * dim, device=device, dtype=dtype)
        index = torch.rand(batch, count, count, device=device).topk(top, dim=-1).indices
        return q, kv, index

    return Case(
        f"bi-level routing {height}x{width}, stride {stride}, {heads} heads of 32, top {top}",
        lambda q, kv, index: routed_attention(q, kv, index, heads),
        lambda q, kv, index: gathered_attention(q, kv, index, heads),
        inputs,
        4 * batch * regions * regions * tokens * top * tokens * dim,
    )


def detector_cases(batch: int) -> list[Case]:
    """Operators of detectors, against mmcv's compiled ones, which have to be installed."""
    from backbones.dense.ops.speed import cases

    return [Case(*four, 0, differentiable) for *four, differentiable in cases(batch)]


GROUPS: dict[str, Callable[[int], list[Case]]] = {
    "neighborhood": lambda batch: [
        attention_case(56, 56, 2, 32, 7, 1, batch),
        attention_case(56, 56, 2, 32, 7, 8, batch),
        attention_case(200, 304, 2, 32, 7, 1, batch),
        attention_case(200, 304, 2, 32, 7, 8, batch),
    ],
    "contmix": lambda batch: [
        product_case(height, width, 4, 32, kernel, batch)
        for height, width in ((28, 28), (100, 152))
        for kernel in (5, 13)
    ],
    "routing": lambda batch: [
        routing_case(800, 1216, 4, 64, 1, batch),
        routing_case(800, 1216, 8, 128, 4, batch),
        routing_case(800, 1216, 16, 256, 16, batch),
    ],
    "dense": detector_cases,
}
#: Those whose plain form needs nothing more than torch.
DEFAULT_GROUPS = [name for name in GROUPS if name != "dense"]


class OpSubject:
    """One call of an operator, forward, or forward and backward."""

    def __init__(self, call: Callable[..., Tensor], inputs: tuple[Tensor, ...], backward: bool) -> None:
        self.call, self.backward = call, backward
        self.inputs = tuple(x.detach().requires_grad_(backward and x.is_floating_point()) for x in inputs)
        with torch.no_grad():
            self.grad = torch.randn_like(call(*self.inputs))

    def __call__(self) -> None:
        if not self.backward:
            with torch.inference_mode():
                self.call(*self.inputs)
            return
        out = self.call(*self.inputs)
        torch.autograd.grad(out, [x for x in self.inputs if x.requires_grad], self.grad, allow_unused=True)


def subjects(case: Case, device: torch.device, dtype: torch.dtype, backward: bool) -> Iterator[OpSubject]:
    """Ours and the plain form on the same inputs."""
    torch.manual_seed(0)
    inputs = case.inputs(device, dtype)
    for call in (case.ours, case.plain):
        yield OpSubject(call, inputs, backward)
