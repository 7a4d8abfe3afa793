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


def runs_fast(q: Tensor, k: Tensor, v: Tensor, kernel_size: tuple[int, int]) -> bool:
    """Whether natten is installed with its compiled kernels and one of them takes these inputs.

    Without its compiled kernels natten falls back on PyTorch's flex attention, which is no faster than ours.
    """
    library = _library() if q.is_cuda else None
    return (
        library is not None
        and bool(library.HAS_LIBNATTEN)
        and q.dtype in DTYPES
        and k.dtype == v.dtype == q.dtype
        and q.shape[-1] % HEAD_DIM_MULTIPLE == 0
        and min(kernel_size) >= 2
        and _device_has_kernels(q.device)
    )


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    stride: tuple[int, int],
    scale: float,
) -> Tensor:
    """`neighborhood_attention` by natten's `na2d`, which chooses among its own kernels.

    Args:
        q, k, v: (B, H, W, heads, head_dim).
        kernel_size, dilation, stride: pairs, rows first.
        scale: factor of q @ k.

    Returns:
        (B, H, W, heads, head_dim).

    Raises:
        ImportError: if natten cannot be imported.
        ValueError: if none of its kernels takes the inputs.
    """
    library = _library()
    if library is None:
        raise ImportError('backend="natten" needs the natten package: pip install "backbones[natten]".')
    try:
        return library.na2d(q, k, v, kernel_size, stride=stride, dilation=dilation, scale=scale)
    except (NotImplementedError, ValueError) as error:
        raise ValueError(f'natten does not take these inputs, use backend="auto": {error}') from error
