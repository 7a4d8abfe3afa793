"""Attention whose tokens are channels."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.pointwise import Linear


@register_notrace_module
class ChannelAttention(nn.Module):
    """Self-attention among the channels of every group, over all positions (DaViT, arXiv 2204.03645, section 3.3).

    Its cost is linear in the number of positions. As published, `softmax(K^T V / sqrt(c))` mixes the queries, where the
    paper's equation has `softmax(Q^T K / sqrt(c))` mix the values.

    Args:
        dim: Channels C.
        groups: Groups of `c = C / groups` channels; must divide C.
        qkv_bias: Bias of the input projection.

    Maps `(B, H, W, C)` to `(B, H, W, C)`, any H and W.

    Raises:
        ValueError: `groups` does not divide C.
    """

    def __init__(self, dim: int, groups: int, qkv_bias: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        if dim % groups:
            raise ValueError(f"dim {dim} must be a multiple of groups {groups}")
        dd = {"device": device, "dtype": dtype}
        self.groups = groups
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.proj = Linear(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        # One copy, (3, B, groups, H * W, c): the two products would make one each of what they take.
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.groups, -1)).permute(2, 0, 3, 1, 4).contiguous()
        q, k, v = qkv.unbind(0)
        # The scale before the product, whose sum over all positions half precision may not hold otherwise.
        weights = ((k * k.shape[-1] ** -0.5).transpose(-2, -1) @ v).softmax(-1)
        out = q @ weights.transpose(-2, -1)
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, (height, width)))

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
