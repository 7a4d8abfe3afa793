"""Multi-axis attention: self-attention within local windows and within sparse global grids (MaxViT)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, to_2tuple
from torch import nn

from backbones._compat import is_plain_eager
from backbones.layers.cache import shape_cache
from backbones.layers.pointwise import Linear
from backbones.layers.relpos import RelativePositionBias2d


def window_partition(x: torch.Tensor, window_size: tuple[int, int]) -> torch.Tensor:
    """Cut `(B, H, W, C)` into its P x Q neighbourhoods: `(B, H/P * W/Q, P * Q, C)`. One copy."""
    b, h, w, c = x.shape
    p, q = window_size
    return x.reshape(b, h // p, p, w // q, q, c).transpose(2, 3).reshape(b, (h // p) * (w // q), p * q, c)


def window_merge(x: torch.Tensor, window_size: tuple[int, int], height: int, width: int) -> torch.Tensor:
    """The inverse of `window_partition`, to `(B, height, width, C)`."""
    b, _, _, c = x.shape
    p, q = window_size
    return x.reshape(b, height // p, width // q, p, q, c).transpose(2, 3).reshape(b, height, width, c)


def grid_partition(x: torch.Tensor, grid_size: tuple[int, int]) -> torch.Tensor:
    """Gather the positions of `(B, H, W, C)` that are H/P and W/Q apart: `(B, H/P * W/Q, P * Q, C)`. One copy."""
    b, h, w, c = x.shape
    p, q = grid_size
    x = x.reshape(b, p, h // p, q, w // q, c).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // p) * (w // q), p * q, c)


def grid_merge(x: torch.Tensor, grid_size: tuple[int, int], height: int, width: int) -> torch.Tensor:
    """The inverse of `grid_partition`, to `(B, height, width, C)`."""
    b, _, _, c = x.shape
    p, q = grid_size
    x = x.reshape(b, height // p, width // q, p, q, c).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, height, width, c)


@shape_cache()
def _real_keys(height: int, width: int, p: int, q: int, grid: bool, device: torch.device) -> torch.Tensor:
    """`(groups, P * Q)`: whether a group's token is a position of the map, not of its padding below and right."""
    sides = []
    for size, n in ((height, p), (width, q)):
        count = (size + n - 1) // n
        real = torch.arange(count * n, device=device) < size
        sides.append(real.view(n, count).t() if grid else real.view(count, n))
    rows, columns = sides
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(rows.shape[0] * columns.shape[0], p * q)


def grouped_attention(
    qkv: torch.Tensor, num_heads: int, bias: torch.Tensor | None = None, real: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention among the N tokens of every group.

    Args:
        qkv: `(B, G, N, 3C)`: queries, keys, values; each holds the heads one after another.
        num_heads: Heads; C / heads is the head's width, and its root the divisor of the products.
        bias: `(heads, N, N)`, query by key, added to the products.
        real: `(G, N)` bool, False for tokens that no query may attend to. Every group needs one that is True.

    Returns:
        `(B, G, N, C)`.
    """
    b, g, n, width = qkv.shape
    q, k, v = (t.transpose(1, 2) for t in qkv.reshape(b * g, n, 3, num_heads, width // (3 * num_heads)).unbind(2))
    learned = bias is not None and bias.requires_grad and torch.is_grad_enabled()
    if bias is not None:
        bias = bias.to(q.dtype)[None]
    if real is not None:
        if bias is None:
            bias = qkv.new_zeros(1, 1, n, n)
        bias = bias.masked_fill(~real[:, None, None, :], float("-inf"))
        bias = bias.expand(b, *bias.shape).flatten(0, 1)
    if learned and q.device.type == "cpu" and q.dtype.itemsize >= 4 and is_plain_eager():
        # SDPA's fused kernel on CPU has no gradient of the bias, and its fallback costs more than these three steps.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        out = scores.softmax(-1) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return out.transpose(1, 2).reshape(b, g, n, width // 3)


def _divides(size: int, by: int) -> bool:
    """Whether `by` is known to divide `size`; never where an exported program is to run at other sizes."""
    return not isinstance(size, torch.SymInt) and int(size) % by == 0


@register_notrace_module
class WindowAttention(nn.Module):
    """Self-attention within P x Q windows that tile the map (MaxViT, arXiv 2204.01697, section 3.2, "block" attention).

    Where the window does not divide the map, the map is zero-padded below and right, and no query attends to padding.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        window_size: P, or `(P, Q)`.
        qkv_bias: Bias of the input projection.
        rel_pos_bias: Learn a bias for every (key minus query) offset.

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
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.window_size = to_2tuple(window_size)
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.rel_pos = RelativePositionBias2d(num_heads, self.window_size, **dd) if rel_pos_bias else None
        self.proj = Linear(dim, dim, **dd)

    def set_window_size(self, window_size: int | tuple[int, int]) -> None:
        """Change the window, and resize the bias table to it."""
        self.window_size = to_2tuple(window_size)
        if self.rel_pos is not None:
            self.rel_pos.set_window_size(self.window_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        p, q = self.window_size
        padded_height, padded_width = (height + p - 1) // p * p, (width + q - 1) // q * q
        padded = not (_divides(height, p) and _divides(width, q))
        real = None
        if padded:
            x = F.pad(x, (0, 0, 0, padded_width - width, 0, padded_height - height))
            real = _real_keys(height, width, p, q, self.grid, x.device)
        x = grid_partition(x, (p, q)) if self.grid else window_partition(x, (p, q))
        bias = self.rel_pos(p, q) if self.rel_pos is not None else None
        x = self.proj(grouped_attention(self.qkv(x), self.num_heads, bias, real))
        merge = grid_merge if self.grid else window_merge
        x = merge(x, (p, q), padded_height, padded_width)
        return x[:, :height, :width] if padded else x

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, window_size={self.window_size}"


@register_notrace_module
class GridAttention(WindowAttention):
    """Self-attention among the P x Q positions that are H/P rows and W/Q columns apart (MaxViT, section 3.2).

    The relative position bias counts steps of the grid, not pixels. Arguments and padding as in `WindowAttention`.
    """

    grid = True
