"""Multi-axis attention: self-attention within local windows and within sparse global grids (MaxViT)."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module, to_2tuple
from torch import nn

from backbones.layers.attention.relpos import RelativePositionBias2d
from backbones.layers.pointwise import Linear
from backbones.ops.chunks import in_chunks
from backbones.ops.window import Groups, window_attention


@register_notrace_module
class WindowAttention(nn.Module):
    """Self-attention within P x Q windows that tile the map (MaxViT, arXiv 2204.01697, section 3.2, "block" attention).

    Where the window does not divide the map, the map is zero-padded below and right.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        window_size: P, or `(P, Q)`.
        qkv_bias: Bias of the input projection.
        rel_pos_bias: Learn a bias for every (key minus query) offset.
        mask_padding: Let no query attend to padding. Otherwise it is attended to like any position whose input is zero.
        resize_mode: How the bias table is resized to another window, "bilinear" or "bicubic".

    Maps `(B, H, W, C)` to `(B, H, W, C)`.
    """

    grid = False

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int | tuple[int, int] = 7,
        qkv_bias: bool = True,
        rel_pos_bias: bool = True,
        mask_padding: bool = True,
        resize_mode: str = "bilinear",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.window_size = to_2tuple(window_size)
        self.mask_padding = mask_padding
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.rel_pos = RelativePositionBias2d(num_heads, self.window_size, resize_mode, **dd) if rel_pos_bias else None
        self.proj = Linear(dim, dim, **dd)

    def no_weight_decay(self) -> set[str]:
        """The bias table."""
        return set() if self.rel_pos is None else {"rel_pos.relative_position_bias_table"}

    def set_window_size(self, window_size: int | tuple[int, int]) -> None:
        """Change the window, and resize the bias table to it."""
        self.window_size = to_2tuple(window_size)
        if self.rel_pos is not None:
            self.rel_pos.set_window_size(self.window_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = Groups.of(x, self.window_size, self.grid)
        bias = self.rel_pos(*self.window_size) if self.rel_pos is not None else None
        mask = groups.real(x.device) if self.mask_padding else None

        def attend(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(3)
            return self.proj(window_attention(q, k, v, bias, mask).flatten(3))

        x = groups.cut(groups.pad(x))
        mask = None if mask is None else mask.expand(x.shape[0], -1, -1)
        x = in_chunks(attend, x, lambda: (self.qkv, self.proj), axis=1, beside=mask)
        return groups.crop(groups.join(x))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, window_size={self.window_size}"


@register_notrace_module
class GridAttention(WindowAttention):
    """Self-attention among the P x Q positions that are H/P rows and W/Q columns apart (MaxViT, section 3.2).

    The relative position bias counts steps of the grid, not pixels. Arguments and padding as in `WindowAttention`.
    """

    grid = True
