"""Neighborhood attention by the natten package, where it is installed: an optional fast path for CUDA devices.

natten (https://natten.org; Hassani et al., arXiv 2204.07143, 2403.04690, 2504.16922) has fused kernels for sliding,
dilated and strided neighborhood attention without position bias. This is the only module that imports it, when first
asked for.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from backbones.ops._dispatch import Backend, no_capture_reasons
from backbones.ops.neighborhood.reference import AttentionInputs

# What natten's CUTLASS kernels take, which run wherever its kernels for newer devices do not.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
HEAD_DIM_MULTIPLE = 8
COMPUTE_CAPABILITY = (6, 0)


@cache
def _library() -> ModuleType | None:
    try:
        import natten
    except ImportError:
        return None
    return natten


@cache
def _device_has_kernels(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= COMPUTE_CAPABILITY


def _refusals(q: Tensor, k: Tensor, v: Tensor, kernel_size: tuple[int, int]) -> list[str]:
    """Why natten is not installed with compiled kernels that take these inputs.

    Without its compiled kernels natten falls back on PyTorch's flex attention, which is no faster than ours.
    """
    if not q.is_cuda:
        return ["is for CUDA devices"]
    library = _library()
    if library is None:
        return ["is not installed"]
    conditions = {
        "is installed without its compiled kernels": bool(library.HAS_LIBNATTEN),
        f"takes tensors of one type, float32, float16 or bfloat16, not {q.dtype}": q.dtype in DTYPES
        and k.dtype == v.dtype == q.dtype,
        f"takes heads of multiples of {HEAD_DIM_MULTIPLE} channels, not {q.shape[-1]}": q.shape[-1] % HEAD_DIM_MULTIPLE
        == 0,
        "takes kernel sizes of 2 or more": min(kernel_size) >= 2,
        "has no kernels for this device": _device_has_kernels(q.device),
    }
    return [reason for reason, holds in conditions.items() if not holds]


def runs_fast(q: Tensor, k: Tensor, v: Tensor, kernel_size: tuple[int, int]) -> bool:
    """Whether natten is installed with its compiled kernels and one of them takes these inputs."""
    return not _refusals(q, k, v, kernel_size)


class NattenAttention(Backend):
    """natten's `na2d`, which chooses among its own kernels."""

    name = "natten"
    package = '"backbones[natten]"'

    def is_installed(self) -> bool:
        return _library() is not None

    def unsupported_reasons(self, inputs: AttentionInputs) -> list[str]:
        return [] if inputs.bias is None else ["has no position bias"]

    def unsuitable_reasons(self, inputs: AttentionInputs) -> list[str]:
        return no_capture_reasons() or _refusals(inputs.q, inputs.k, inputs.v, inputs.window.kernel)

    def run(self, inputs: AttentionInputs) -> Tensor:
        q, k, v, _, window, scale = inputs
        try:
            return _library().na2d(q, k, v, window.kernel, stride=window.stride, dilation=window.dilation, scale=scale)
        except (NotImplementedError, ValueError) as error:
            raise ValueError(f'natten does not take these inputs, use backend="auto": {error}') from error
