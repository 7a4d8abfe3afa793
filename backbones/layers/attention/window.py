"""Self-attention within groups of positions: windows, shifted windows, grids."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, to_2tuple
from torch import nn

from backbones.layers.attention.relpos import LogSpacedPositionBias2d, RelativePositionBias2d
from backbones.layers.pointwise import Linear
from backbones.ops.chunks import in_chunks
from backbones.ops.window import Groups, window_attention

# Added to the logit of two positions that a roll has brought into one window: Swin's value, not minus infinity.
APART = -100.0


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

    scale: float | None = None  # of the products of queries and keys; None for the root of a head's width

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
        self.rel_pos: nn.Module | None = None
        if rel_pos_bias:
            self.rel_pos = RelativePositionBias2d(num_heads, self.window_size, resize_mode, **dd)
        self.proj = Linear(dim, dim, **dd)

    def no_weight_decay(self) -> set[str]:
        """The bias table."""
        has_table = isinstance(self.rel_pos, RelativePositionBias2d)
        return {"rel_pos.relative_position_bias_table"} if has_table else set()

    def set_window_size(self, window_size: int | tuple[int, int]) -> None:
        """Change the window, and resize the bias table to it."""
        self.window_size = to_2tuple(window_size)
        if isinstance(self.rel_pos, RelativePositionBias2d):
            self.rel_pos.set_window_size(self.window_size)

    def groups(self, x: torch.Tensor) -> Groups:
        """The groups of positions of a map `(B, H, W, C)` that attend to each other."""
        return Groups.of(x, self.window_size)

    def heads(self, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`(B, G, N, 3, heads, c)` to queries, keys and values, `(B, G, N, heads, c)` each."""
        return qkv.unbind(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = self.groups(x)
        bias = self.rel_pos(*groups.size) if self.rel_pos is not None else None
        marks = groups.bands(x.device)
        if marks is None and self.mask_padding:
            marks = groups.real(x.device)

        def attend(x: torch.Tensor, marks: torch.Tensor | None = None) -> torch.Tensor:
            q, k, v = self.heads(self.qkv(x).unflatten(-1, (3, self.num_heads, -1)))
            mask = marks
            if marks is not None and marks.dtype != torch.bool:
                mask = (marks[..., :, None] != marks[..., None, :]) * APART
            return self.proj(window_attention(q, k, v, bias, mask, self.scale).flatten(3))

        x = groups.cut(groups.pad(x))
        marks = None if marks is None else marks.expand(x.shape[0], -1, -1)
        x = in_chunks(attend, x, lambda: (self.qkv, self.proj), axis=1, beside=marks)
        return groups.crop(groups.join(x))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, window_size={self.window_size}"


@register_notrace_module
class GridAttention(WindowAttention):
    """Self-attention among the P x Q positions that are H/P rows and W/Q columns apart (MaxViT, section 3.2).

    The relative position bias counts steps of the grid, not pixels. Arguments and padding as in `WindowAttention`.
    """

    def groups(self, x: torch.Tensor) -> Groups:
        return Groups.of(x, self.window_size, grid=True)


@register_notrace_module
class ShiftedWindowAttention(WindowAttention):
    """Self-attention within windows that are shifted against those before (Swin, arXiv 2103.14030, section 3.2).

    The map is rolled up and left; of what is then in a window, only positions that were neighbours attend to each
    other. Where the window does not divide the map, it is zero-padded below and right before it is rolled, and padding
    is attended to, as in the authors' detectors.

    Args:
        dim, num_heads, window_size, qkv_bias: As in `WindowAttention`.
        shift: Rows and columns, one number or two; 0 for no shift. Usually half of the window in every other block.
    """

    roll_first = False

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int | tuple[int, int] = 7,
        shift: int | tuple[int, int] = 0,
        qkv_bias: bool = True,
        rel_pos_bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(dim, num_heads, window_size, qkv_bias, rel_pos_bias, False, device=device, dtype=dtype)
        self.set_window_size(window_size, shift)

    def set_window_size(self, window_size: int | tuple[int, int], shift: int | tuple[int, int] = 0) -> None:
        """Change window and shift, and resize the bias table to the window.

        Raises:
            ValueError: The shift is not smaller than the window.
        """
        shift, window = to_2tuple(shift), to_2tuple(window_size)
        if not all(0 <= s < p for s, p in zip(shift, window)):
            raise ValueError(f"shift {shift} must be at least 0 and less than the window {window}")
        super().set_window_size(window)
        self.shift = shift

    def groups(self, x: torch.Tensor) -> Groups:
        return Groups.of(x, self.window_size, shift=self.shift, roll_first=self.roll_first)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, shift={self.shift}"


def fitted_window(map_size: int | tuple[int, int], window_size: int) -> tuple[int, int]:
    """Window and shift of shifted windows on maps of a size, as Swin's authors derive them.

    Where the shorter side of the map is not larger than the window, it becomes the window, and there is no shift.

    Args:
        map_size: Side of the map, or `(height, width)`, positions.
        window_size: The window that is asked for, positions.
    """
    side = min(to_2tuple(map_size))
    return (side, 0) if side <= window_size else (window_size, window_size // 2)


@register_notrace_module
class FittedWindowAttention(ShiftedWindowAttention):
    """Windows that fit maps of a size, see `fitted_window`, shifted or not.

    Args:
        dim, num_heads, qkv_bias: As in `WindowAttention`.
        map_size: `(H, W)` of the maps that the windows are derived from; others are padded to whole windows.
        window_size: The window that is asked for.
        shifted: Shift the windows, by half of one.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        map_size: tuple[int, int],
        window_size: int = 7,
        shifted: bool = False,
        qkv_bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        window, shift = fitted_window(map_size, window_size)
        super().__init__(dim, num_heads, window, shift if shifted else 0, qkv_bias=qkv_bias, device=device, dtype=dtype)
        self.wanted, self.shifted = window_size, shifted

    def set_map_size(self, map_size: tuple[int, int]) -> None:
        """Derive the window from maps of another size, and resize the bias table to it."""
        window, shift = fitted_window(map_size, self.wanted)
        self.set_window_size(window, shift if self.shifted else 0)


@register_notrace_module
class CosineWindowAttention(ShiftedWindowAttention):
    """Shifted-window attention whose logits are scaled cosines, with a log-spaced position bias (Swin V2).

    arXiv 2111.09883, sections 3.2 and 3.3. Each head learns the logarithm of its scale, which is at most 100. Keys have
    no bias. Where the window does not divide the map, it is rolled first and then padded, as in timm.

    Args:
        dim, num_heads, window_size, shift: As in `ShiftedWindowAttention`.
        trained_window: Window of the pre-training, which offsets are counted in; None for `window_size`.
    """

    roll_first = True
    scale = 1.0
    max_scale = 100.0

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int | tuple[int, int] = 8,
        shift: int | tuple[int, int] = 0,
        trained_window: int | tuple[int, int] | None = None,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, num_heads, window_size, shift, qkv_bias=False, rel_pos_bias=False, **dd)
        self.q_bias = nn.Parameter(torch.empty(dim, **dd))
        self.v_bias = nn.Parameter(torch.empty(dim, **dd))
        self.rel_pos = LogSpacedPositionBias2d(num_heads, trained_window, **dd)
        self.logit_scale = nn.Parameter(torch.empty(num_heads, 1, 1, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.q_bias)
        nn.init.zeros_(self.v_bias)
        nn.init.constant_(self.logit_scale, math.log(10))

    def no_weight_decay(self) -> set[str]:
        """The scales."""
        return {"logit_scale"}

    def heads(self, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v = qkv.unbind(3)
        q_bias, v_bias = (bias.to(v.dtype).unflatten(0, (self.num_heads, -1)) for bias in (self.q_bias, self.v_bias))
        q, v = q + q_bias, v + v_bias
        # Norms of half precision would overflow, and scaled queries lose digits.
        q, k = (F.normalize(t.float() if t.dtype.itemsize < 4 else t, dim=-1) for t in (q, k))
        q = q * self.logit_scale.clamp(max=math.log(self.max_scale)).exp().flatten(1)
        return q.to(v.dtype), k.to(v.dtype), v
