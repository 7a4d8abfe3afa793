"""Linear layers and GELU at the speed of the convolutions of the same shape.

A linear layer on a channels-last map is a 1x1 convolution. On CPU, float32 matrix products go to the BLAS library of
the torch build and convolutions to oneDNN; on AMD processors the first reaches half of the second's speed, forward and
backward. And torch's own tanh-GELU takes four times as long as the one that oneDNN builds into its convolutions.
Everything here computes what the plain torch functions compute, up to rounding; other devices, other dtypes, autocast
and captured graphs use the plain functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones._compat import is_plain_eager, onednn_conv2d

# Values of a hidden map, 16 MiB. The C library keeps up to twice as much for the next map, instead of returning it to
# the system, whose fresh pages take longer than the arithmetic.
CHUNK = 1 << 22


def _on_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and is_plain_eager()
    )


def can_fuse(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN's fused convolution, which has no gradient, can take the place of torch's."""
    return onednn_conv2d is not None and not torch.is_grad_enabled() and _on_onednn(x, weight)


def in_parts(
    function: Callable[..., torch.Tensor],
    x: torch.Tensor,
    ratio: float,
    training: bool = False,
    halo: int | None = None,
    stride: int = 1,
    axis: int = 1,
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """`function(x)`, in inference on CPU of so few images or rows at a time that hidden maps stay small.

    Args:
        function: Of a batch, for each image by itself.
        x: `(B, ...)`.
        ratio: Values of the function's largest map for every value of `x`.
        training: Whether it has a BatchNorm that looks at the whole batch now.
        halo, stride, axis: As in `row_parts`, for functions that it suits; a halo of None where a row of the result
            depends on the whole image.
        beside: The function's second argument, cut as `x` is.
    """
    arguments = (x,) if beside is None else (x, beside)
    values = x.numel() * ratio
    if training or not can_fuse(x, x) or values <= CHUNK:
        return function(*arguments)
    if x.shape[0] > 1:
        images = _even_part(x.shape[0], x.shape[0] * CHUNK / values)
        parts = zip(*(argument.split(images) for argument in arguments), strict=True)
        return torch.cat([in_parts(function, part, ratio, False, halo, stride, axis, *more) for part, *more in parts])
    if halo is None or x.dim() < 3:
        return function(*arguments)
    return join(row_parts(function, x, ratio, halo, stride, axis, beside), axis)


def join(parts: list[torch.Tensor], axis: int) -> torch.Tensor:
    """The parts one after another; no copy of a single one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)


def _even_part(total: int, most: float) -> int:
    """Length of the parts when `total` is cut into as few as hold at most `most` each, and as even as can be."""
    return math.ceil(total / math.ceil(total / max(1, int(most))))


def row_parts(
    function: Callable[..., torch.Tensor],
    x: torch.Tensor,
    ratio: float,
    halo: int,
    stride: int = 1,
    axis: int = 1,
    beside: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """The rows of `function(x)`, in inference on CPU of one image some rows at a time, as in `in_parts`; else all.

    Args:
        function: Row r of its result must depend only on rows of `x` that are at most `halo` from row `stride * r`.
            It may pad; what that does to the ends of a part is cut off again. All parts have, like the image, a
            multiple of `stride` rows (an image that has not is done whole), so that they are padded alike.
        x: `(B, ..., H, ...)`, rows along `axis`.
        ratio: Values of the function's largest map for every value of `x`.
        halo: Rows, a multiple of `stride`.
        stride: Rows of `x` for one of the result.
        axis: That of the rows, in `x` and in the result.
        beside: The function's second argument, cut as `x` is.
    """
    arguments = (x,) if beside is None else (x, beside)
    height, values = x.shape[axis], x.numel() * ratio
    if x.shape[0] > 1 or not can_fuse(x, x) or values <= CHUNK or height % stride:
        return [function(*arguments)]
    results = height // stride
    rows = max(4 * halo // stride, _even_part(results, results * CHUNK / values))
    parts = []
    for first in range(0, results, rows):
        count = min(rows, results - first)
        low = max(stride * first - halo, 0)
        high = min(stride * (first + count) + halo, height)
        part = function(*(argument.narrow(axis, low, high - low) for argument in arguments))
        parts.append(part.narrow(axis, first - low // stride, count))
    return parts


class _TanhGELU(torch.autograd.Function):
    """tanh-GELU through oneDNN, as a depthwise 1x1 convolution by 1 with a fused activation; torch's own gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        ones = x.new_ones(channels, 1, 1, 1)
        return onednn_conv2d(x, ones, None, (0, 0), (1, 1), (1, 1), channels, "gelu", [], "tanh")

    @staticmethod
    def setup_context(ctx, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(grad, x, approximate="tanh")


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """GELU in its tanh form, of any tensor; fast on `(B, C, H, W)` maps."""
    if onednn_conv2d is not None and x.dim() == 4 and _on_onednn(x, x):
        return _TanhGELU.apply(x)
    return F.gelu(x, approximate="tanh")


def _gelu(x: torch.Tensor, approximate: str) -> torch.Tensor:
    return gelu_tanh(x) if approximate == "tanh" else F.gelu(x)


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    gelu: str | None = None,
) -> torch.Tensor:
    """Convolution of `(B, C, H, W)`; one kernel in inference on CPU.

    Args:
        x, weight, bias, stride, padding, groups: As in `F.conv2d`.
        gelu: The form of the GELU that follows, "none" (exact) or "tanh" as in `F.gelu`; None for no GELU.
    """
    if can_fuse(x, weight):
        act = ("none", [], "") if gelu is None else ("gelu", [], gelu)
        return onednn_conv2d(x, weight, bias, padding, stride, (1, 1), groups, *act)
    x = F.conv2d(x, weight, bias, stride, padding, groups=groups)
    return x if gelu is None else _gelu(x, gelu)


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, gelu: str | None = None
) -> torch.Tensor:
    """`(..., C)` times `weight` of shape `(D, C)` plus bias, followed by a GELU where `gelu`; see `conv2d`."""
    if x.dim() == 4 and _on_onednn(x, weight):
        return conv2d(x.permute(0, 3, 1, 2), weight[:, :, None, None], bias, gelu=gelu).permute(0, 2, 3, 1)
    x = F.linear(x, weight, bias)
    return x if gelu is None else F.gelu(x, approximate=gelu)


@register_notrace_module
class Linear(nn.Linear):
    """`nn.Linear` whose fast case is a channels-last map `(B, H, W, C)`, or groups of tokens `(B, G, N, C)`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


@register_notrace_module
class Mlp(nn.Module):
    """Linear, GELU, linear: `(..., C)` to `(..., C)`.

    Args:
        dim: Channels C.
        hidden_dim: Width of the hidden layer.
        approximate: Form of the GELU, "none" (exact) or "tanh".
    """

    def __init__(self, dim: int, hidden_dim: int, approximate: str = "none", device=None, dtype=None) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim, device=device, dtype=dtype)
        self.fc2 = Linear(hidden_dim, dim, device=device, dtype=dtype)
        self.approximate = approximate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return in_parts(self._forward, x, self.fc1.out_features / self.fc1.in_features, halo=0)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(linear(x, self.fc1.weight, self.fc1.bias, gelu=self.approximate))
