"""Large-kernel depthwise convolution that trains as a sum of dilated branches and runs as one convolution."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from backbones.layers.conv.basic import ConvNorm
from backbones.layers.conv.depthwise import LargeDepthwiseConv2d
from backbones.ops.plain import is_plain

# Kernel size to the (kernel, dilation) of the branches beside the large kernel (UniRepLKNet, arXiv 2311.15599, section
# 3, and OverLoCK's own rows). Every branch reaches at most as far as the large kernel.
BRANCHES: dict[int, tuple[tuple[int, int], ...]] = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 1), (3, 2), (3, 3)),
    9: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (7, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    19: ((5, 1), (7, 1), (9, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


class DilatedReparamConv(nn.Module):
    """Depthwise K x K convolution plus parallel dilated small ones, each with its own BatchNorm.

    The dilated re-parameterisation block of UniRepLKNet (arXiv 2311.15599, section 3). A dilated kernel is a sparse
    large one, so in evaluation the whole sum is a single biased K x K convolution: `reparameterize` replaces the
    branches by it for good, and `merged=True` builds that form.

    Args:
        dim: Channels C.
        kernel_size: K, one of `BRANCHES`.
        merged: Build the single convolution.

    Maps `(B, C, H, W)` to the same shape.

    Raises:
        ValueError: No branches are published for the kernel size.
    """

    def __init__(self, dim: int, kernel_size: int, merged: bool = False, device=None, dtype=None) -> None:
        super().__init__()
        if kernel_size not in BRANCHES:
            raise ValueError(f"kernel_size must be one of {', '.join(map(str, BRANCHES))}, not {kernel_size}")
        dd = {"device": device, "dtype": dtype}
        self.kernel_size = kernel_size
        self.merged = merged
        self.conv = LargeDepthwiseConv2d(dim, kernel_size, bias=merged, **dd)
        self.norm = None if merged else nn.BatchNorm2d(dim, **dd)
        self.branches = None
        if not merged:
            self.branches = nn.ModuleDict(
                {
                    f"k{k}_{d}": ConvNorm(dim, dim, k, padding=d * (k // 2), dilation=d, groups=dim, **dd)
                    for k, d in BRANCHES[kernel_size]
                }
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.merged:
            return self.conv(x)
        y = self.norm(self.conv(x))
        for branch in self.branches.values():
            y = y + branch(x)
        return y

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Replace all branches, in place, by the one convolution that they are in evaluation.

        Raises:
            ValueError: A convolution was replaced or has hooks, which the merged one would lose.
        """
        if self.merged:
            return
        for name, conv in (("conv", self.conv), *((f"branches.{n}.conv", b.conv) for n, b in self.branches.items())):
            if not is_plain(conv):
                raise ValueError(
                    f"cannot merge {name} of a DilatedReparamConv: it was replaced or has hooks; undo that first"
                )
        parts = [_Part.of(self.conv, self.norm), *(_Part.of(b.conv, b.norm) for b in self.branches.values())]
        weight, bias = merge_parts(parts)
        self.conv.weight = nn.Parameter(weight, requires_grad=self.conv.weight.requires_grad)
        self.conv.bias = nn.Parameter(bias, requires_grad=self.conv.weight.requires_grad)
        self.norm = self.branches = None
        self.merged = True


class _Part(NamedTuple):
    """One branch: depthwise kernel `(C, 1, k, k)`, its dilation, and the BatchNorm after it (all `(C,)`)."""

    kernel: torch.Tensor
    dilation: int
    scale: torch.Tensor
    shift: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor
    eps: float = 1e-5

    @classmethod
    def of(cls, conv: nn.Conv2d, norm: nn.Module) -> _Part:
        return cls(conv.weight, conv.dilation[0], norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)


def merge_parts(parts: list[_Part]) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernel `(C, 1, K, K)` and bias `(C,)` of the convolution that is the sum of the parts, the largest first."""
    large = parts[0].kernel
    weight = torch.zeros_like(large, dtype=torch.float64)
    bias = torch.zeros(large.shape[0], dtype=torch.float64, device=large.device)
    for part in parts:
        factor = part.scale.double() / torch.sqrt(part.var.double() + part.eps)
        span = part.dilation * (part.kernel.shape[-1] - 1) + 1
        start = (large.shape[-1] - span) // 2
        taps = slice(start, start + span, part.dilation)
        weight[:, :, taps, taps] += part.kernel.double() * factor.view(-1, 1, 1, 1)
        bias += part.shift.double() - part.mean.double() * factor
    return weight.to(large.dtype), bias.to(large.dtype)


_BRANCH_KEY = re.compile(r"^(.*\.|)branches\.k\d+_(\d+)\.conv\.weight$")


def merge_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict in which every `DilatedReparamConv` in training form is replaced by its merged form."""
    branches: dict[str, list[tuple[str, int]]] = {}
    for key in state_dict:
        if match := _BRANCH_KEY.match(key):
            branches.setdefault(match[1], []).append((key.removesuffix("conv.weight"), int(match[2])))

    out = dict(state_dict)
    for prefix, dilated in branches.items():
        parts = []
        for part_prefix, dilation in [(prefix, 1), *dilated]:
            kernel = out.pop(f"{part_prefix}conv.weight")
            norm = (out.pop(f"{part_prefix}norm.{n}") for n in ("weight", "bias", "running_mean", "running_var"))
            parts.append(_Part(kernel, dilation, *norm))
            out.pop(f"{part_prefix}norm.num_batches_tracked", None)
        out[f"{prefix}conv.weight"], out[f"{prefix}conv.bias"] = merge_parts(parts)
    return out
