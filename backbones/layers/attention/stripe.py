"""Attention within stripes across the map."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.pointwise import Linear
from backbones.ops.window import Groups, window_attention


@register_notrace_module
class CrossShapedAttention(nn.Module):
    """Self-attention within vertical stripes in half of the heads, and within horizontal ones in the other half.

    To a stripe's result comes a 3x3 depthwise convolution of its values (LePE), which sees nothing beyond the stripe.
    (CSWin, arXiv 2107.00652, sections 3.2 and 3.3.) Where the stripes do not divide the map, the last one is padded and
    the padding masked. A map that is not wider than a stripe is attended to as a whole.

    Args:
        dim: Channels C.
        num_heads: Heads, an even number that divides C.
        stripe_width: Columns of a vertical stripe, and rows of a horizontal one.
        qkv_bias: Bias of the input projection.

    Maps `(B, H, W, C)` to `(B, H, W, C)`.

    Raises:
        ValueError: Heads that cannot be halved or do not divide the channels.
    """

    def __init__(
        self, dim: int, num_heads: int, stripe_width: int, qkv_bias: bool = True, device=None, dtype=None
    ) -> None:
        super().__init__()
        if dim % num_heads or num_heads % 2:
            raise ValueError(f"num_heads {num_heads} must be even and divide dim {dim}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.stripe_width = stripe_width
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.lepe = nn.ModuleList(nn.Conv2d(dim // 2, dim // 2, 3, padding=1, groups=dim // 2, **dd) for _ in range(2))
        self.proj = Linear(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        vertical, horizontal = self.qkv(x).unflatten(-1, (3, 2, -1)).unbind(-2)
        vertical = self.stripes(vertical, (height, self.stripe_width), self.lepe[0])
        horizontal = self.stripes(horizontal, (self.stripe_width, width), self.lepe[1])
        return self.proj(torch.cat([vertical, horizontal], dim=-1))

    def stripes(self, qkv: torch.Tensor, size: tuple[int, int], lepe: nn.Module) -> torch.Tensor:
        """Attention of one half of the heads.

        Args:
            qkv: `(B, H, W, 3, C / 2)`.
            size: Rows and columns of a stripe.
            lepe: Their local position encoding.

        Returns:
            `(B, H, W, C / 2)`.
        """
        groups = Groups.of(qkv, size)
        qkv = groups.cut(groups.pad(qkv.flatten(3))).unflatten(-1, (3, -1))
        q, k, v = qkv.unflatten(-1, (self.num_heads // 2, -1)).unbind(3)
        out = window_attention(q, k, v, mask=groups.real(qkv.device)).flatten(3)
        local = lepe(qkv[..., 2, :].flatten(0, 1).unflatten(1, size).permute(0, 3, 1, 2))
        out = out + local.permute(0, 2, 3, 1).reshape(out.shape)
        return groups.crop(groups.join(out))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, stripe_width={self.stripe_width}"
