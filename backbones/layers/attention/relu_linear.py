"""Attention whose cost is linear in the number of positions."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.pointwise import Linear
from backbones.ops.autocast import no_autocast

FLOOR = 100.0  # of what the sums are divided by


@register_notrace_module
class ReLULinearAttention(nn.Module):
    """Linear attention by ReLU features (L2ViT; Zheng, arXiv 2501.16182, section 3).

    With `q = ReLU(q)` and `k = ReLU(k)`, and sums over all positions, a head gives
    `t * q_i (sum_j k_j v_j^T) / max(q_i . sum_j k_j, 100)`, where t is learned. As published, the floor is no mere
    guard: on small maps, such as those of 7 x 7, it is what sums are divided by, so outputs depend on the map's size.

    Sums are in float32 at least: half precision does not hold those of a large map.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        qkv_bias: Bias of the input projection.

    Maps `(B, H, W, C)` to `(B, H, W, C)`, any H and W.

    Raises:
        ValueError: `num_heads` does not divide C.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1, **dd))
        self.proj = Linear(dim, dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.temperature, (self.qkv.in_features // self.num_heads) ** -0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        with no_autocast(x.device):
            q, k, v = qkv.to(torch.promote_types(qkv.dtype, torch.float32)).unbind(0)
            q, k = q.relu(), k.relu()
            total = (q @ k.sum(2)[..., None]).clamp(min=FLOOR)
            out = q @ (k.mT @ v * self.temperature) / total
        return self.proj(out.transpose(1, 2).flatten(2).view(x.shape).to(x.dtype))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"
