"""Depthwise convolutions whose kernels depend on the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.conv.basic import ConvNorm
from backbones.ops.per_image import depthwise_per_image


@register_notrace_module
class DynamicDepthwiseConv(nn.Module):
    """Input-dependent depthwise convolution (IDConv; TransXNet, arXiv 2310.19380, section 3.2).

    Each channel has a bank of G kernels. The map, pooled to K x K, gives every tap of every channel its own softmax
    mixture of them; the map's mean gives, through the same layers, the mixture of a bank of biases.

    In training these layers' BatchNorm sees the pooled map and the mean in turn, and so needs more than one image.

    Args:
        dim: Channels C.
        kernel_size: K, odd.
        num_groups: G.
        reduction: Hidden width of the mixing layers is C over this.

    Maps `(B, C, H, W)` to the same shape, contiguous whatever the input's memory format.

    Raises:
        ValueError: An even kernel, or fewer channels than `reduction`.
    """

    def __init__(
        self, dim: int, kernel_size: int = 7, num_groups: int = 2, reduction: int = 4, device=None, dtype=None
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        if dim < reduction:
            raise ValueError(f"dim {dim} must be at least the reduction {reduction}")
        dd = {"device": device, "dtype": dtype}
        self.kernel_size = kernel_size
        self.num_groups = num_groups
        self.weight = nn.Parameter(torch.empty(num_groups, dim, kernel_size, kernel_size, **dd))
        self.bias = nn.Parameter(torch.empty(num_groups, dim, **dd))
        self.reduce = ConvNorm(dim, dim // reduction, **dd)
        self.act = nn.GELU()
        self.expand = nn.Conv2d(dim // reduction, dim * num_groups, 1, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.trunc_normal_(self.bias, std=0.02)

    def _mix(self, pooled: torch.Tensor) -> torch.Tensor:
        """`(B, C, k, k)` to the mixture `(B, G, C, k, k)` of the bank's members."""
        logits = self.expand(self.act(self.reduce(pooled)))
        return logits.unflatten(1, (self.num_groups, -1)).softmax(dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        weight = (self._mix(F.adaptive_avg_pool2d(x, self.kernel_size)) * self.weight).sum(1)
        mixed = self._mix(x.mean((2, 3), keepdim=True))[..., 0, 0] * self.bias
        bias = mixed.transpose(0, 1).flatten(1).sum(0)  # no view of a sum, which Inductor takes for no bias on CPU
        return depthwise_per_image(x, weight, bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, kernel_size={self.kernel_size}, num_groups={self.num_groups}"


@register_notrace_module
class PredictedDepthwiseConv(nn.Module):
    """Depthwise convolution by kernels that two linear layers make of a vector (InLine, arXiv 2412.06590, section 4.2).

    The layers are grouped: a group's kernels depend on its own channels of the vector. The kernels are not normalised.

    Args:
        dim: Channels C.
        num_groups: Groups; must divide C.
        kernel_size: K, odd.

    Maps `(B, C, H, W)` and vectors `(B, C)` to `(B, C, H, W)`.
    """

    def __init__(self, dim: int, num_groups: int, kernel_size: int = 3, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.kernel_size = kernel_size
        self.fc1 = nn.Conv1d(dim, dim, 1, groups=num_groups, **dd)
        self.act = nn.GELU()
        self.fc2 = nn.Conv1d(dim, dim * kernel_size**2, 1, groups=num_groups, **dd)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        kernels = self.fc2(self.act(self.fc1(context[..., None])))
        return depthwise_per_image(x, kernels.view(x.shape[0], x.shape[1], self.kernel_size, self.kernel_size))

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}"
