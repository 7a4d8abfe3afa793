"""Deformable convolution, v1 and v2 (modulated), and convolution at chosen pixels only, as mmcv calls them.

Offsets are `(B, 2 * deformable_group * kh * kw, H', W')`, y before x; masks `(B, deformable_group * kh * kw, H', W')`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from backbones._compat import deform_conv2d_backward
from backbones.dense.ops.precision import exact

OPERATORS = (
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
)


def _backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    group: int,
    deformable_group: int,
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias."""
    grad, input, weight, offset = (exact(x).contiguous() for x in (grad, input, weight, offset))
    modulation = input.new_zeros(len(input), 1) if mask is None else exact(mask).contiguous()
    bias = input.new_zeros(len(weight))
    numbers = (*stride, *padding, *dilation, group, deformable_group, mask is not None)
    return deform_conv2d_backward(grad, input, weight, offset, modulation, bias, *numbers)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution (Dai et al., 2017, section 2.1): each tap of the kernel reads where its offset points."""
    numbers = ((dH, dW), (padH, padW), (dilationH, dilationW))
    output.copy_(deform_conv2d(exact(input), exact(offset), exact(weight), None, *numbers))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Adds gradients to `gradInput` and `gradOffset`; leaves the weight's, which comes with them, in `columns`."""
    numbers = ((dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    grads = _backward(gradOutput, input, weight, offset, None, *numbers)
    gradInput += grads[0]
    gradOffset += grads[2]
    columns.resize_(weight.shape).copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds the gradient to `gradWeight`, that of `deform_conv_backward_input` where it has just run."""
    if columns.shape == gradWeight.shape:
        grad = columns.clone()
        columns.resize_(0)
    else:
        numbers = ((dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
        grad = _backward(gradOutput, input, gradWeight, offset, None, *numbers)[1]
    gradWeight += grad * scale


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Deformable convolution whose taps are also weighted (Zhu et al., 2019, equation 1)."""
    numbers = ((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), exact(mask))
    added = exact(bias) if with_bias else None
    output.copy_(deform_conv2d(exact(input), exact(offset), exact(weight), added, *numbers))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Adds gradients to the five `grad_...` of inputs."""
    numbers = ((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group)
    grads = _backward(grad_output, input, weight, offset, mask, *numbers)
    for total, grad in zip((grad_input, grad_weight, grad_offset, grad_mask), grads):
        total += grad
    if with_bias:
        grad_bias += grads[4]


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Windows of a `(1, C, H, W)` map around chosen pixels, as columns of `col`, `(C * kh * kw, pixels)`."""
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]  # (kh, pixels)
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows[:, None], columns].flatten(0, 2))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Writes columns of `(C, pixels)` to the chosen pixels of a `(1, C, H, W)` map."""
    im[0, :, mask_h_idx, mask_w_idx] = col
