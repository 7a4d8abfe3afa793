"""CARAFE's upsampling, and PSANet's masks, as mmcv calls them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.dense.ops.precision import exact, gradients

OPERATORS = (
    "carafe_backward",
    "carafe_forward",
    "carafe_naive_backward",
    "carafe_naive_forward",
    "psamask_backward",
    "psamask_forward",
)
COLLECT, DISTRIBUTE = 0, 1


def reassemble(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """Each pixel of an upsampled map is a weighted sum of the window around its source (CARAFE, equation 2).

    Args:
        features: `(B, C, H, W)`; zero beyond its edges.
        masks: `(B, group_size * kernel_size**2, scale_factor * H, scale_factor * W)`, the weights.
        kernel_size: Side of the window, odd.
        group_size: Groups of channels with weights of their own.
        scale_factor: Of the upsampling.

    Returns:
        `(B, C, scale_factor * H, scale_factor * W)`.
    """
    batch, channels, height, width = features.shape
    half = kernel_size // 2
    padded = F.pad(features, (half, half, half, half)).unflatten(1, (group_size, -1))
    masks = masks.reshape(batch, group_size, kernel_size**2, height, scale_factor, width, scale_factor)
    out = features.new_zeros(batch, group_size, channels // group_size, height, scale_factor, width, scale_factor)
    for tap in range(kernel_size**2):
        top, left = divmod(tap, kernel_size)
        source = padded[..., top : top + height, left : left + width]
        out = out.addcmul(source[..., :, None, :, None], masks[:, :, tap].unsqueeze(2))
    return out.view(batch, channels, height * scale_factor, width * scale_factor)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """`reassemble` to a given tensor."""
    output.copy_(reassemble(exact(features), exact(masks), kernel_size, group_size, scale_factor))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Adds gradients to `bottom_grad`, that of the features, and `mask_grad`."""
    grads = gradients(lambda x, y: reassemble(x, y, kernel_size, group_size, scale_factor), (features, masks), top_grad)
    bottom_grad += grads[0]
    mask_grad += grads[1]


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As `carafe_naive_forward`; `rfeatures` keeps the features for the backward pass."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As `carafe_naive_backward`."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


def _mask_index(
    height: int, width: int, h_mask: int, w_mask: int, half_h_mask: int, half_w_mask: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each pair of pixels, the entry of the second one's mask that lies on the first, and whether there is one."""
    y = torch.arange(height, device=device).repeat_interleave(width)
    x = torch.arange(width, device=device).repeat(height)
    row, column = y[:, None] - y + half_h_mask, x[:, None] - x + half_w_mask
    inside = (row >= 0) & (row < h_mask) & (column >= 0) & (column < w_mask)
    return (row * w_mask + column).where(inside, 0), inside


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Spreads masks that are centred on their pixels over the map (PSANet, section 3.3).

    `input` is `(B, h_mask * w_mask, H, W)`, `output` `(B, H * W, H, W)`; what masks do not reach is zero. Collecting,
    the second pixel of the pair is the mask's own, distributing, the first one.
    """
    index, inside = _mask_index(h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask, input.device)
    spread = input.flatten(2).gather(1, index.expand(num_, -1, -1)) * inside
    output.copy_((spread if psa_type == COLLECT else spread.transpose(1, 2)).reshape(output.shape))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Adds the gradient to `grad_input`."""
    index, inside = _mask_index(h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask, grad_input.device)
    grad = grad_output.flatten(2)
    grad = (grad if psa_type == COLLECT else grad.transpose(1, 2)) * inside
    total = torch.zeros_like(grad_input).flatten(2).scatter_add_(1, index.expand(num_, -1, -1), grad)
    grad_input += total.view_as(grad_input)
