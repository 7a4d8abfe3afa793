"""Neighborhood attention and window products by Triton kernels, as operators that torch.compile takes as they are.

The kernels themselves are in `triton_attention` and `triton_product`, which are imported when first launched:
Triton comes with torch's builds for CUDA, but not with all others. With TRITON_INTERPRET=1 they run, slowly, on any
device.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from backbones.ops._dispatch import Backend, no_capture_reasons
from backbones.ops.neighborhood.reference import AttentionInputs, ProductInputs, ScoreInputs

INSTALLED = find_spec("triton") is not None

# Widest heads for which attention's kernels keep their sums in registers, and those of products in any type.
ATTENTION_DIM = {torch.float32: 32, torch.float16: 64, torch.bfloat16: 64}
PRODUCT_DIM = 64
COMPUTE_CAPABILITY = (8, 0)


class Tiles(NamedTuple):
    """How a kernel cuts a map: positions of a program, keys (or queries) of a step, and Triton's warps and stages."""

    tile_h: int
    tile_w: int
    block_h: int
    block_w: int
    num_warps: int
    num_stages: int


#: Compute capability to the best `Tiles` by `tuning_key`; `tools/gpu.py` measures them.
TUNED: dict[str, dict[str, Tiles]] = {
    capability: {key: Tiles(*tiles) for key, tiles in table.items()}
    for capability, table in json.loads(Path(__file__).with_name("triton_tiles.json").read_text()).items()
}


def default_tiles(dtype: torch.dtype, dim: int) -> Tiles:
    """What is used where nothing was measured.

    Two rows of 16 columns hold the 14 x 14 keys that 8 x 8 queries with windows of 7 cover in 7 steps. Warps and stages
    are what fits into registers.
    """
    narrow = dim <= 32
    return Tiles(8, 8, 2, 16, 4 if narrow else 8, 2 if narrow and dtype != torch.float32 else 1)


def tuning_key(operator: str, dtype: torch.dtype, dim: int, kernel: Sequence[int]) -> str:
    """Name of a call in the table, such as "attention forward, bfloat16, heads of 32, 7x7"."""
    return f"{operator}, {str(dtype).removeprefix('torch.')}, heads of {dim}, {kernel[0]}x{kernel[1]}"


def capability(device: torch.device) -> str:
    """The key of a device in `TUNED`, such as "9.0"; "none" for the interpreter's."""
    return "{}.{}".format(*torch.cuda.get_device_capability(device)) if device.type == "cuda" else "none"


@cache
def _tiles(operator: str, dtype: torch.dtype, dim: int, kernel: tuple[int, ...], device: torch.device) -> Tiles:
    tuned = {**TUNED.get(capability(device), {}), **_trial}
    return tuned.get(tuning_key(operator, dtype, dim, kernel)) or default_tiles(dtype, dim)


_trial: dict[str, Tiles] = {}


@contextmanager
def use_tiles(tiles: Mapping[str, Tiles]) -> Iterator[None]:
    """Take these tiles, by `tuning_key`, instead of the table's inside the block."""
    _tiles.cache_clear()
    _trial.update(tiles)
    try:
        yield
    finally:
        _tiles.cache_clear()
        _trial.clear()


@cache
def _devices_have_kernels() -> bool:
    if not INSTALLED or torch.version.hip is not None or not torch.cuda.is_available():
        return False
    return all(torch.cuda.get_device_capability(i) >= COMPUTE_CAPABILITY for i in range(torch.cuda.device_count()))


@torch.compiler.assume_constant_result
def devices_have_kernels() -> bool:
    """Whether the kernels run on this machine's CUDA devices."""
    return _devices_have_kernels()


def _unsupported(*tensors: Tensor) -> list[str]:
    """Why no kernel takes these three maps, or weights and a map (..., dim)."""
    dtype, dim = tensors[-1].dtype, tensors[-1].shape[-1]
    if not tensors[0].is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return [f"needs tensors on a CUDA device, not on {tensors[0].device}"]
    if dtype not in ATTENTION_DIM or any(x.dtype != dtype for x in tensors):
        return [f"takes tensors of one type, float32, float16 or bfloat16, not {[str(x.dtype) for x in tensors]}"]
    widest = ATTENTION_DIM[dtype] if len(tensors) == 3 else PRODUCT_DIM
    return [f"takes heads of at most {widest} channels in {dtype}, not {dim}"] if dim > widest else []


class _Triton(Backend):
    name = package = "triton"

    def is_installed(self) -> bool:
        return INSTALLED

    def unsuitable_reasons(self, inputs: AttentionInputs | ProductInputs | ScoreInputs) -> list[str]:
        if not inputs[0].is_cuda:
            return ["is for CUDA devices"]
        return no_capture_reasons(compiled=True) or ([] if devices_have_kernels() else ["has no kernels for them"])


class TritonAttention(_Triton):
    def unsupported_reasons(self, inputs: AttentionInputs) -> list[str]:
        return _unsupported(*inputs[:3])

    def run(self, inputs: AttentionInputs) -> Tensor:
        q, k, v, bias, window, scale = inputs
        return _attention(q, k, v, bias, *map(list, window), scale)[0]


class TritonProduct(_Triton):
    def unsupported_reasons(self, inputs: ProductInputs) -> list[str]:
        return _unsupported(*inputs[:2])

    def run(self, inputs: ProductInputs) -> Tensor:
        return _product(inputs.attn, inputs.v, *map(list, inputs.window[:2]))


class TritonScores(_Triton):
    def unsupported_reasons(self, inputs: ScoreInputs) -> list[str]:
        return _unsupported(inputs.q, inputs.k)

    def run(self, inputs: ScoreInputs) -> Tensor:
        return _scores(inputs.q, inputs.k, *map(list, inputs.window[:2]))


def _axes(
    operator: str, v: Tensor, kernel: list[int], dilation: list[int]
) -> tuple[list[int], int, dict[str, int | str]]:
    """Sizes, number of programs and compile-time constants for a map (B, H, W, heads, dim)."""
    batch, height, width, heads, dim = v.shape
    chosen = _tiles(operator, v.dtype, dim, tuple(kernel), v.device)
    tile, block = chosen[:2], chosen[2:4]
    lengths = [(size + d - 1) // d for size, d in zip((height, width), dilation)]
    tiles = [(length + side - 1) // side for length, side in zip(lengths, tile)]
    constants = {"DIM": dim, "WIDTH": max(16, 1 << (dim - 1).bit_length()), "PRECISION": _precision(v.dtype)}
    constants |= {"num_warps": chosen.num_warps, "num_stages": chosen.num_stages}
    for name, pair in (("KERNEL", kernel), ("DILATION", dilation), ("TILE", tile), ("BLOCK", block)):
        constants[f"{name}_H"], constants[f"{name}_W"] = pair
    programs = batch * heads * dilation[0] * dilation[1] * tiles[0] * tiles[1]
    return [height, width, heads, *tiles], programs, constants


def _precision(dtype: torch.dtype) -> str:
    """How products of float32 are computed: as torch's own may be; "tf32x3" is as exact as float32."""
    matmul = torch.backends.cuda.matmul
    # To read the older switch is an error where the newer one, from torch 2.9 on, was set.
    allowed = matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
    return "tf32" if dtype != torch.float32 or allowed else "tf32x3"


def _launch(kernel, programs: int, *args, **constants) -> None:
    """Start a kernel on the device of its first argument: Triton itself takes the current one."""
    with torch.cuda.device(args[0].device) if args[0].is_cuda else nullcontext():
        kernel[(programs,)](*args, **constants)


def _strides(*maps: Tensor) -> list[int]:
    """Strides of maps (B, H, W, heads, dim), but those of the last dimension."""
    return [s for x in maps for s in x.stride()[:4]]


def _unit(x: Tensor) -> Tensor:
    """`x`, or a copy if the last dimension does not have unit stride."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _attention_arguments(operator, q, k, v, bias, kernel, dilation, stride, scale):
    sizes, programs, constants = _axes(operator, v, kernel, dilation)
    constants |= {"STRIDE_H": stride[0], "STRIDE_W": stride[1], "BIAS": bias is not None}
    return [*_strides(q, k, v), *sizes, scale], programs, constants


@torch.library.custom_op("backbones::neighborhood_attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel: list[int],
    dilation: list[int],
    stride: list[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The output (B, H, W, heads, dim) and the base-2 logarithm (B, heads, H, W) of what softmax divides by."""
    from backbones.ops.neighborhood.triton_attention import attention_forward

    q, k, v = (_unit(x) for x in (q, k, v))
    out = q.new_empty(q.shape)
    lse = q.new_empty((q.shape[0], q.shape[3], *q.shape[1:3]), dtype=torch.float32)
    numbers, programs, constants = _attention_arguments(
        "attention forward", q, k, v, bias, kernel, dilation, stride, scale
    )
    table = q if bias is None else bias.contiguous()
    _launch(attention_forward, programs, q, k, v, table, out, lse, *numbers, **constants)
    return out, lse


@_attention.register_fake
def _(q, k, v, bias, kernel, dilation, stride, scale):
    return q.new_empty(q.shape), q.new_empty((q.shape[0], q.shape[3], *q.shape[1:3]), dtype=torch.float32)


@torch.library.custom_op("backbones::neighborhood_attention_backward", mutates_args=())
def _attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    kernel: list[int],
    dilation: list[int],
    stride: list[int],
    scale: float,
    grad_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the bias; the last is empty unless `grad_bias`."""
    from backbones.ops.neighborhood.triton_attention import attention_backward_keys, attention_backward_queries

    q, k, v, grad = (_unit(x) for x in (q, k, v, grad.contiguous()))
    delta = (grad * out).sum(-1, dtype=torch.float32).permute(0, 3, 1, 2).contiguous()
    grads = [q.new_empty(q.shape) for _ in range(3)]
    numbers, programs, constants = _attention_arguments(
        "attention backward", q, k, v, bias, kernel, dilation, stride, scale
    )
    table = q if bias is None else bias.contiguous()
    parts = q.new_empty((programs if grad_bias else 0, *(2 * size - 1 for size in kernel)), dtype=torch.float32)
    inputs = (q, k, v, table, lse, grad, delta)
    entries = [max(16, 1 << (2 * size - 2).bit_length()) for size in kernel]
    _launch(
        attention_backward_queries,
        programs,
        *inputs,
        grads[0],
        parts,
        *numbers,
        **constants,
        GRAD_BIAS=grad_bias,
        ENTRIES_H=entries[0],
        ENTRIES_W=entries[1],
        # One factor is zeros and ones, on which three passes would be wasted.
        SUM_PRECISION="ieee" if constants["PRECISION"] == "tf32x3" else "tf32",
    )
    _launch(attention_backward_keys, programs, *inputs, *grads[1:], *numbers, **constants)
    if not grad_bias:
        return *grads, parts
    return *grads, parts.view(q.shape[0], q.shape[3], -1, *parts.shape[1:]).sum((0, 2)).to(bias.dtype)


@_attention_backward.register_fake
def _(grad, q, k, v, bias, out, lse, kernel, dilation, stride, scale, grad_bias):
    shape = bias.shape if grad_bias else (0, *(2 * size - 1 for size in kernel))
    table = q.new_empty(shape, dtype=bias.dtype if grad_bias else torch.float32)
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape), table


def _save_attention(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.numbers = inputs[4:]


def _differentiate_attention(ctx, grad: Tensor, _) -> tuple[Tensor | None, ...]:
    q, k, v, bias, out, lse = ctx.saved_tensors
    wanted = bias is not None and ctx.needs_input_grad[3]
    grads = _attention_backward(grad, q, k, v, bias, out, lse, *ctx.numbers, wanted)
    return *grads[:3], grads[3] if wanted else None, None, None, None, None


_attention.register_autograd(_differentiate_attention, setup_context=_save_attention)


@torch.library.custom_op("backbones::neighborhood_av", mutates_args=())
def _product(attn: Tensor, v: Tensor, kernel: list[int], dilation: list[int]) -> Tensor:
    """(B, heads, H, W, K * K), (B, heads, H, W, dim) -> (B, heads, H, W, dim)."""
    from backbones.ops.neighborhood.triton_product import product_forward

    out = v.new_empty(v.shape)
    values = _unit(v).permute(0, 2, 3, 1, 4)
    sizes, programs, constants = _axes("product forward", values, kernel, dilation)
    _launch(product_forward, programs, attn.contiguous(), values, out, *_strides(values), *sizes, **constants)
    return out


@_product.register_fake
def _(attn, v, kernel, dilation):
    return v.new_empty(v.shape)


@torch.library.custom_op("backbones::neighborhood_av_backward", mutates_args=())
def _product_backward(
    grad: Tensor, attn: Tensor, v: Tensor, kernel: list[int], dilation: list[int]
) -> tuple[Tensor, Tensor]:
    """Gradients of the weights and of the values."""
    from backbones.ops.neighborhood.triton_product import product_backward_values, product_backward_weights

    grad_attn, grad_v = attn.new_empty(attn.shape), v.new_empty(v.shape)
    values, grad = (_unit(x).permute(0, 2, 3, 1, 4) for x in (v, grad))
    sizes, programs, constants = _axes("product backward", values, kernel, dilation)
    _launch(product_backward_weights, programs, values, grad, grad_attn, *_strides(values, grad), *sizes, **constants)
    _launch(product_backward_values, programs, attn.contiguous(), grad, grad_v, *_strides(grad), *sizes, **constants)
    return grad_attn, grad_v


@_product_backward.register_fake
def _(grad, attn, v, kernel, dilation):
    return attn.new_empty(attn.shape), v.new_empty(v.shape)


def _save_product(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.numbers = inputs[2:]


def _differentiate_product(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_product_backward(grad, *ctx.saved_tensors, *ctx.numbers), None, None


_product.register_autograd(_differentiate_product, setup_context=_save_product)


@torch.library.custom_op("backbones::neighborhood_qk", mutates_args=())
def _scores(q: Tensor, k: Tensor, kernel: list[int], dilation: list[int]) -> Tensor:
    """(B, heads, H, W, dim) twice -> (B, heads, H, W, K * K)."""
    from backbones.ops.neighborhood.triton_product import product_backward_weights

    out = q.new_empty(*q.shape[:4], kernel[0] * kernel[1])
    q, k = (_unit(x).permute(0, 2, 3, 1, 4) for x in (q, k))
    sizes, programs, constants = _axes("product backward", k, kernel, dilation)
    _launch(product_backward_weights, programs, k, q, out, *_strides(k, q), *sizes, **constants)
    return out


@_scores.register_fake
def _(q, k, kernel, dilation):
    return q.new_empty(*q.shape[:4], kernel[0] * kernel[1])


@torch.library.custom_op("backbones::neighborhood_qk_keys", mutates_args=())
def _key_gradient(grad: Tensor, q: Tensor, kernel: list[int], dilation: list[int]) -> Tensor:
    """Gradient of the keys, (B, heads, H, W, dim)."""
    from backbones.ops.neighborhood.triton_product import product_backward_values

    out = q.new_empty(q.shape)
    q = _unit(q).permute(0, 2, 3, 1, 4)
    sizes, programs, constants = _axes("product backward", q, kernel, dilation)
    strides = _strides(q)
    _launch(product_backward_values, programs, grad.contiguous(), q, out, *strides, *sizes, **constants)
    return out


@_key_gradient.register_fake
def _(grad, q, kernel, dilation):
    return q.new_empty(q.shape)


def _save_scores(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.numbers = inputs[2:]


def _differentiate_scores(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k = ctx.saved_tensors
    return _product(grad, k, *ctx.numbers), _key_gradient(grad, q, *ctx.numbers), None, None


_scores.register_autograd(_differentiate_scores, setup_context=_save_scores)
