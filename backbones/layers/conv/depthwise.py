"""Large-kernel depthwise convolution with a fast weight gradient on CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones._compat import is_plain_eager
from backbones.ops.plain import plain

# Kernel size from which the CPU library's own weight gradient is slow: at 15 and 17 it takes 4 to 40 times as much
# processor time as the Fourier transform, at 13 as much or up to 5 times (torch 2.11, oneDNN, one and two threads).
FFT_FROM = 13


@plain()
@register_notrace_module
class LargeDepthwiseConv2d(nn.Conv2d):
    """Depthwise K x K convolution, "same" padding, stride 1; an `nn.Conv2d` in every respect but speed.

    In eager training on a CPU the weight gradient of large kernels goes through the Fourier transform. Elsewhere (other
    devices, compiled or exported graphs) the operator is the plain convolution.
    """

    def __init__(self, dim: int, kernel_size: int, bias: bool = True, device=None, dtype=None) -> None:
        super().__init__(
            dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=bias, device=device, dtype=dtype
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (
            self.kernel_size[0] < FFT_FROM
            or not (torch.is_grad_enabled() and self.weight.requires_grad)
            or not is_plain_eager()
            or x.device.type != "cpu"
        ):
            return super().forward(x)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            x, weight = x.to(torch.get_autocast_dtype("cpu")), weight.to(torch.get_autocast_dtype("cpu"))
        y = _DepthwiseConv.apply(x, weight)
        return y if self.bias is None else y + self.bias.to(y.dtype).view(1, -1, 1, 1)


class _DepthwiseConv(torch.autograd.Function):
    """`conv2d(x, weight, padding=K // 2, groups=C)`; its backward is made of differentiable operators."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=weight.shape[0])

    @staticmethod
    def setup_context(ctx, inputs: tuple[torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        x, weight = ctx.saved_tensors
        kernel = weight.shape[-1]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = F.conv2d(grad, weight.flip(2, 3), padding=kernel // 2, groups=weight.shape[0])
        if ctx.needs_input_grad[1]:
            grad_weight = correlate(x, grad, kernel).to(weight.dtype)
        return grad_x, grad_weight


def correlate(x: torch.Tensor, grad: torch.Tensor, kernel: int) -> torch.Tensor:
    """Weight gradient of a "same" depthwise convolution by the correlation theorem.

    Args:
        x: `(B, C, H, W)` input of the convolution.
        grad: `(B, C, H, W)` gradient of its output.
        kernel: K, odd.

    Returns:
        `(C, 1, K, K)`: at each tap the sum over images and positions of `grad` times the input that the tap saw.
    """
    if x.dtype not in (torch.float32, torch.float64):
        x, grad = x.float(), grad.float()
    pad = kernel // 2
    size = (x.shape[2] + 2 * pad, x.shape[3] + 2 * pad)  # no wrap-around within the kernel's reach
    spectrum = torch.fft.rfft2(F.pad(x, (pad, pad, pad, pad))) * torch.fft.rfft2(grad, s=size).conj()
    return torch.fft.irfft2(spectrum.sum(0), s=size)[:, None, :kernel, :kernel]
