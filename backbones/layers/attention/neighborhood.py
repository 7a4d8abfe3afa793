"""Neighborhood attention as a module on channels-last maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.pointwise import Linear
from backbones.ops.neighborhood import neighborhood_attention


@register_notrace_module
class NeighborhoodAttention2d(nn.Module):
    """Neighborhood attention, optionally dilated or strided.

    Sources: NAT, arXiv 2204.07143, section 3.1; DiNAT, arXiv 2209.15001; the stride: GNA, arXiv 2504.16922, section 3.

    Every query attends to the K x K nearest positions of its dilation group; windows are shifted inwards at borders.
    With a stride s, s x s queries share the window of the one in their middle; s = K is window attention.
    Where a side is shorter than K * dilation the input is zero-padded right and bottom before the projection, without a
    mask, as the published models were trained.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        kernel_size: Window side K, odd.
        dilation: Step between neighbours.
        qkv_bias: Bias of the input projection.
        rel_pos_bias: Learn a bias for every (key minus query) offset.
        stride: Side s of the groups of queries that share a window, 1 to K.

    Maps `(B, H, W, C)` to `(B, H, W, C)`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int = 7,
        dilation: int = 1,
        qkv_bias: bool = True,
        rel_pos_bias: bool = True,
        stride: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        if not 1 <= stride <= kernel_size:
            raise ValueError(f"stride must be 1 to kernel_size {kernel_size}, not {stride}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.stride = stride
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        side = 2 * kernel_size - 1
        self.rpb = nn.Parameter(torch.empty(num_heads, side, side, **dd)) if rel_pos_bias else None
        self.proj = Linear(dim, dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.rpb is not None:
            nn.init.trunc_normal_(self.rpb, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        least = self.kernel_size * self.dilation
        padded = height < least or width < least
        if padded:
            x = F.pad(x, (0, 0, 0, max(least - width, 0), 0, max(least - height, 0)))
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(3)
        x = neighborhood_attention(q, k, v, self.kernel_size, self.dilation, self.rpb, stride=self.stride).flatten(3)
        if padded:
            x = x[:, :height, :width]
        return self.proj(x)

    def extra_repr(self) -> str:
        window = f"kernel_size={self.kernel_size}, dilation={self.dilation}, stride={self.stride}"
        return f"num_heads={self.num_heads}, {window}"
