"""Linear layers, convolutions and GELU through oneDNN on CPU.

A linear layer on a channels-last map is a 1x1 convolution. On CPU, float32 matrix products go to the BLAS library of
the torch build and convolutions to oneDNN; on AMD processors the first reaches half of the second's speed, forward and
backward. And torch's own tanh-GELU takes four times as long as the one that oneDNN builds into its convolutions.
Everything here computes what the plain torch functions compute, up to rounding; other devices, other dtypes, autocast
and captured graphs use the plain functions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from backbones._compat import is_plain_eager, onednn_conv2d

# Activations by the name used here: oneDNN's arguments for it, and its `approximate` in `F.gelu`.
_ACTS = {None: ("none", [], ""), "gelu": ("gelu", [], "none"), "gelu_tanh": ("gelu", [], "tanh")}


_TENSORS = (torch.Tensor, torch.nn.Parameter)
_FUNCTIONS = F.linear, F.conv2d


def _on_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and type(x) in _TENSORS
        and type(weight) in _TENSORS
        and (F.linear, F.conv2d) == _FUNCTIONS  # some counters of operations replace them
        and x.dtype == weight.dtype == torch.float32
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and is_plain_eager()
    )


def can_fuse(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN's fused convolution, which has no gradient, can take the place of torch's."""
    return onednn_conv2d is not None and not torch.is_grad_enabled() and _on_onednn(x, weight)


class _TanhGELU(torch.autograd.Function):
    """tanh-GELU through oneDNN, as a depthwise 1x1 convolution by 1 with a fused activation; torch's own gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        ones = x.new_ones(channels, 1, 1, 1)
        return onednn_conv2d(x, ones, None, (0, 0), (1, 1), (1, 1), channels, *_ACTS["gelu_tanh"])

    @staticmethod
    def setup_context(ctx, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(grad, x, approximate="tanh")


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """GELU in its tanh form, of any tensor; fast on maps."""
    if onednn_conv2d is None or x.dim() != 4 or not _on_onednn(x, x):
        return F.gelu(x, approximate="tanh")
    if x.is_contiguous():  # oneDNN is fastest with the channels last in memory, and any axis may be the channels
        return _TanhGELU.apply(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return _TanhGELU.apply(x)


def activation(x: torch.Tensor, act: str | None) -> torch.Tensor:
    """The activation that `conv2d` calls `act`."""
    if act is None:
        return x
    return gelu_tanh(x) if act == "gelu_tanh" else F.gelu(x)


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    act: str | None = None,
) -> torch.Tensor:
    """Convolution of `(B, C, H, W)`; one kernel in inference on CPU.

    Args:
        x, weight, bias, stride, padding, dilation, groups: As in `F.conv2d`.
        act: The activation that follows: "gelu" (exact), "gelu_tanh" or None.
    """
    if can_fuse(x, weight):
        return onednn_conv2d(x, weight, bias, padding, stride, dilation, groups, *_ACTS[act])
    return activation(F.conv2d(x, weight, bias, stride, padding, dilation, groups), act)


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, act: str | None = None
) -> torch.Tensor:
    """`(..., C)` times `weight` of shape `(D, C)` plus bias; `act` as in `conv2d`."""
    if x.dim() == 3 and can_fuse(x, weight):  # tokens; with gradients, both libraries take as long
        return linear(x.unsqueeze(2), weight, bias, act).squeeze(2)
    if x.dim() == 4 and _on_onednn(x, weight):
        return conv2d(x.permute(0, 3, 1, 2), weight[:, :, None, None], bias, act=act).permute(0, 2, 3, 1)
    return activation(F.linear(x, weight, bias), act)
