"""The attentions of SG-Former: one that finds how significant positions are, one that is guided by it.

Both map `(B, H, W, C)` and a significance map `(B, H, W)`, or None, to the same two, so that blocks of both kinds
follow each other. Significance carries no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.norm import LayerNorm2d
from backbones.layers.pointwise import Linear
from backbones.ops.attention import attention_and_key_weights, biased_attention
from backbones.ops.cache import shape_cache
from backbones.ops.routing import Regions
from backbones.ops.sizes import crop_map, pad_map, static_size
from backbones.ops.window import Groups


class ProjectedLePE(nn.Module):
    """Local position encoding of a projection of its own: linear layer, then 3x3 depthwise convolution.

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.proj = Linear(dim, dim, device=device, dtype=dtype)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@register_notrace_module
class HybridScaleAttention(nn.Module):
    """Half of the heads attend to a reduced map, half within windows; both tell how significant positions are (3.2).

    Significance of a position is the mean weight, over heads and queries, that it has as a key in its window, plus that
    of the reduced map's position which covers it. Where windows do not divide the map, it is padded below and right,
    and padding takes no part: it is not attended to, and does not attend.

    Args:
        dim: Channels C.
        num_heads: Heads, even; must divide C.
        reduction: Side and stride of the convolution that reduces the map.
        window_size: Side of the windows.

    Raises:
        ValueError: `num_heads` is odd, or does not divide C.
    """

    def __init__(self, dim: int, num_heads: int, reduction: int, window_size: int = 7, device=None, dtype=None) -> None:
        super().__init__()
        if num_heads % 2 or dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must be even and divide dim {dim}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.reduction = reduction
        self.window_size = window_size
        self.qkv = Linear(dim, 2 * dim, **dd)  # queries to the reduced map; queries, keys and values of the windows
        self.reduce = nn.Conv2d(dim, dim, reduction, stride=reduction, **dd)
        self.norm = LayerNorm2d(dim, **dd)
        self.act = nn.GELU()
        self.kv = Linear(dim, dim, **dd)
        self.lepe = ProjectedLePE(dim, **dd)
        self.proj = Linear(dim, dim, **dd)

    def forward(
        self, x: torch.Tensor, significance: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        half = x.shape[-1] // 2
        qkv = self.qkv(x)
        coarse, coarse_significance = self._attend_to_reduced(qkv[..., :half], x)
        fine, fine_significance = self._attend_in_windows(qkv[..., half:])
        out = torch.cat((coarse, fine), -1) + self.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.proj(out), coarse_significance + fine_significance

    def _split(self, x: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        """`(B, N, parts * C / 2)` to as many `(B, heads / 2, N, c)`."""
        return x.unflatten(-1, (parts, self.num_heads // 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _attend_to_reduced(self, q: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = static_size(x.shape[1]), static_size(x.shape[2])
        r = self.reduction
        cells = Regions((height + r - 1) // r, (width + r - 1) // r, r, r)
        reduced = self.act(
            self.norm(self.reduce(pad_map(x, cells.rows * r, cells.cols * r).permute(0, 3, 1, 2)))
        ).permute(0, 2, 3, 1)
        out, weights = attention_and_key_weights(
            *self._split(q.flatten(1, 2), 1), *self._split(self.kv(reduced).flatten(1, 2), 2)
        )
        weights = cells.join(weights[:, :, None, None].expand(-1, -1, r * r, 1))
        return out.transpose(1, 2).reshape(q.shape), crop_map(weights, height, width)[..., 0]

    def _attend_in_windows(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        groups = Groups.of(qkv, (self.window_size, self.window_size))
        tokens = groups.cut(groups.pad(qkv))
        real = groups.real(qkv.device)
        if real is not None:
            real = real.expand(tokens.shape[0], -1, -1).flatten(0, 1)
        out, weights = attention_and_key_weights(*self._split(tokens.flatten(0, 1), 3), real)
        out, weights = (
            groups.crop(groups.join(t.unflatten(0, tokens.shape[:2])))
            for t in (out.transpose(1, 2).flatten(2), weights[..., None])
        )
        return out, weights[..., 0]

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, reduction={self.reduction}, window_size={self.window_size}"


@register_notrace_module
class SelfGuidedAttention(nn.Module):
    """Attention to weighted sums of positions, long ones of insignificant positions, short ones of significant (3.3).

    Positions are sorted by significance, ascending, and cut at the first and third quarter, or at the middle where
    there are two lengths of runs. Each part is cut into runs of its length, and a linear layer over the places in a
    run, the same for all channels, makes one token of each. A last run that is too short repeats its last position.

    The paper sorts twice, row by row and column by column, for half of the heads each. That differs in the order of
    equal values alone, so one sort serves all heads.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        run_lengths: Positions that make one token, of each part of the sorted positions; two or three.

    Raises:
        ValueError: `num_heads` does not divide C, or the number of `run_lengths` is another.
    """

    def __init__(self, dim: int, num_heads: int, run_lengths: Sequence[int], device=None, dtype=None) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        if len(run_lengths) not in (2, 3):
            raise ValueError(f"run_lengths must be two or three, not {tuple(run_lengths)}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.run_lengths = tuple(run_lengths)
        self.q = Linear(dim, dim, **dd)
        self.merge = nn.ModuleList(nn.Linear(length, 1, **dd) for length in run_lengths)
        self.kv = Linear(dim, 2 * dim, **dd)
        self.lepe = ProjectedLePE(dim, **dd)
        self.proj = Linear(dim, dim, **dd)

    def forward(self, x: torch.Tensor, significance: torch.Tensor) -> tuple[torch.Tensor, None]:
        q = self.q(x).flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        kv = self.kv(self._merged(x, significance))
        k, v = kv.unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        out = biased_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        out = out + self.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.proj(out), None

    def _merged(self, x: torch.Tensor, significance: torch.Tensor) -> torch.Tensor:
        """`(B, T, C)`: one token for each run of the sorted positions."""
        batch, count, dim = x.shape[0], static_size(x.shape[1]) * static_size(x.shape[2]), x.shape[3]
        order = significance.flatten(1).argsort(dim=1, stable=True)
        order = order + torch.arange(batch, device=x.device)[:, None] * count  # positions of the whole batch
        tokens = []
        for layer, ranks, length in zip(
            self.merge, runs_of_ranks(count, self.run_lengths, x.device), self.run_lengths, strict=True
        ):
            positions = order.index_select(1, ranks).flatten()
            runs = x.reshape(-1, dim).index_select(0, positions).view(batch, -1, length, dim)
            tokens.append(layer(runs.transpose(2, 3)).squeeze(3))
        return torch.cat(tokens, 1)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, run_lengths={self.run_lengths}"


@shape_cache()
def runs_of_ranks(count: int, lengths: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Which of `count` sorted positions make up the runs of each part, run after run; one tensor for each length."""
    bounds = (0, count // 2, count) if len(lengths) == 2 else (0, count // 4, count // 4 * 3, count)
    parts = []
    for (start, end), length in zip(pairwise(bounds), lengths, strict=True):
        runs = (end - start + length - 1) // length
        parts.append((start + torch.arange(runs * length, device=device)).clamp(max=end - 1))
    return tuple(parts)
