"""Focal losses (Lin et al., 2017, equation 5) as mmcv calls them.

Targets are class indices `(N,)`; for the sigmoid loss, one that is no class (the background) makes all classes
negative, for the softmax loss a negative one is ignored. `weight` holds a factor for each class, or nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.dense.ops.precision import exact, gradients

OPERATORS = (
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
)


def _factors(weight: Tensor, target: Tensor) -> Tensor | float:
    """The factor of each target's class; 1 where it is no class."""
    if not len(weight):
        return 1.0
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, exact(weight)[target.clamp(0, len(weight) - 1)], 1.0)


def _sigmoid(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    signed = torch.where(positive, input, -input)  # the logit of being right
    loss = -torch.where(positive, alpha, 1 - alpha) * (-signed).sigmoid().pow(gamma) * F.logsigmoid(signed)
    factors = _factors(weight, target)
    return loss * (factors[:, None] if isinstance(factors, Tensor) else factors)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Losses of logits `(N, classes)`, of the same shape."""
    output.copy_(_sigmoid(exact(input), target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Derivatives of the losses by their logits, each of its own."""
    ones = torch.ones_like(exact(input))
    grad_input.copy_(gradients(lambda x: _sigmoid(x, target, weight, gamma, alpha), (input,), ones)[0])


def _softmax(chosen: Tensor, gamma: float, alpha: float) -> Tensor:
    """Losses of probabilities."""
    return -alpha * (1 - chosen).pow(gamma) * chosen.clamp(min=torch.finfo(torch.float32).tiny).log()


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Losses `(N,)` of probabilities `(N, classes)`."""
    chosen = exact(input).gather(1, target.clamp(min=0)[:, None])[:, 0]
    output.copy_(torch.where(target >= 0, _softmax(chosen, gamma, alpha) * _factors(weight, target), 0))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Derivatives of the losses by the logits whose softmax `input` is; `buff` gets those by the chosen class's."""
    label = target.clamp(min=0)[:, None]
    p = exact(input)
    chosen = p.gather(1, label)[:, 0]
    (slope,) = gradients(lambda x: _softmax(x, gamma, alpha), (chosen,), torch.ones_like(chosen))
    # The softmax's own derivative is p_label * (delta - p).
    slope = torch.where(target >= 0, slope * chosen * _factors(weight, target), 0)
    buff.copy_(slope)
    grad_input.copy_(slope[:, None] * (torch.zeros_like(p).scatter_(1, label, 1.0) - p))
