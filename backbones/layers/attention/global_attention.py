"""Attention of every position of a map to every other."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.attention.relpos import RelativePositionBias2d
from backbones.layers.pointwise import Linear
from backbones.layers.selection import Kept, attention_mask
from backbones.ops.attention import biased_attention


@register_notrace_module
class GlobalAttention2d(nn.Module):
    """Multi-head self-attention over all positions, optionally with relative positions or a local position encoding.

    LePE is a depthwise convolution added to the heads' output before the projection (CSWin, arXiv 2107.00652,
    section 3.3). It reads the values there; BiFormer's last stage was published with one that reads the input instead.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        qkv_bias: Bias of the input projection.
        lepe_kernel: Side of the depthwise convolution, odd; 0 for none.
        lepe_input: What it reads: "v" or "x".
        map_size: `(H, W)` of the maps that a relative position bias is stored for; on other maps its table is resized.
            None for no such bias.
        rel_pos: Another bias, a module from H and W to `(heads, H * W, H * W)`.
        lepe: Another local position encoding, a module from `(B, C, H, W)` to the same shape.
        drop: Dropout of the attention weights and of the output.

    Maps `(B, H, W, C)` to `(B, H, W, C)`, any H and W.

    Raises:
        ValueError: Sizes or options that do not go together.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        lepe_kernel: int = 0,
        lepe_input: str = "v",
        map_size: tuple[int, int] | None = None,
        rel_pos: nn.Module | None = None,
        drop: float = 0.0,
        lepe: nn.Module | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        if lepe_kernel and lepe_kernel % 2 == 0:
            raise ValueError(f"lepe_kernel must be odd, or 0 for none, not {lepe_kernel}")
        if lepe_input not in ("v", "x"):
            raise ValueError(f'lepe_input must be "v" or "x", not {lepe_input!r}')
        self.num_heads = num_heads
        self.lepe_input = lepe_input
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.lepe = (
            nn.Conv2d(dim, dim, lepe_kernel, padding=lepe_kernel // 2, groups=dim, **dd) if lepe_kernel else lepe
        )
        self.rel_pos = RelativePositionBias2d(num_heads, map_size, **dd) if map_size is not None else rel_pos
        self.proj = Linear(dim, dim, **dd)
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width, dim = x.shape[1:]
        qkv = self.qkv(x)
        q, k, v = qkv.flatten(1, 2).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.rel_pos(height, width)[None] if self.rel_pos is not None else None
        out = biased_attention(q, k, v, bias, self.drop.p if self.training else 0.0)
        out = out.transpose(1, 2).flatten(2).unflatten(1, (height, width))
        if self.lepe is not None:
            source = x if self.lepe_input == "x" else qkv[..., 2 * dim :]
            out = out + self.lepe(source.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.drop(self.proj(out))

    def extra_repr(self) -> str:
        lepe = f", lepe_input={self.lepe_input!r}" if self.lepe is not None else ""
        return f"num_heads={self.num_heads}{lepe}"


@register_notrace_module
class TokenAttention(GlobalAttention2d):
    """Multi-head self-attention over all tokens, those in front of the map included (ViT, arXiv 2010.11929).

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        qkv_bias: Bias of the input projection.
        drop: Dropout of the attention weights and of the output.

    Maps `(B, N, C)` to `(B, N, C)`.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, drop: float = 0.0, device=None, dtype=None
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, drop=drop, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        return super().forward(x.unsqueeze(2)).squeeze(2)


@register_notrace_module
class KeptTokenAttention(TokenAttention):
    """The same, of the tokens that are kept: others are no keys, and their own result is that of zero.

    Maps tokens, grid and what is `Kept` of the tokens to tokens.
    """

    def forward(self, x: torch.Tensor, grid: tuple[int, int], kept: Kept) -> torch.Tensor:
        qkv = kept.rows(self.qkv(x))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = None if kept.keys is None else attention_mask(kept.keys, q.dtype)[:, None, None]
        out = biased_attention(q, k, v, bias, self.drop.p if self.training else 0.0)
        return self.drop(self.proj(kept.from_rows(out.transpose(1, 2).flatten(2))))
