"""Attention of TransNeXt: scaled cosines, with the positions around a pixel and with a pooled map at once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones._compat import is_plain_eager
from backbones.layers.attention.relpos import PooledPositionBias2d
from backbones.layers.pointwise import Linear
from backbones.ops.attention import biased_attention
from backbones.ops.cache import shape_cache
from backbones.ops.fusion import fused
from backbones.ops.neighborhood import neighborhood_av, neighborhood_qk
from backbones.ops.sizes import is_symbolic, larger, smaller, static_size

# Scores that are in memory at a time where they need not be kept: 64 MiB.
CHUNK = 1 << 24


class LengthScaledCosineAttention(nn.Module):
    """What both of TransNeXt's attentions share (arXiv 2311.17132, section 3.3).

    Queries and keys are normalised; a learned embedding is added to the queries; logits are multiplied by a learned
    positive number of each head and by the logarithm of how many keys there are.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        trained_map: `(H, W)` of the training's map, which the position bias counts in.
        bias_map: `(H, W)` that the position bias is computed for; it is interpolated to other maps, as in the authors'
            detectors and segmentors. None for the map in use.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        trained_map: tuple[int, int],
        bias_map: tuple[int, int] | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.bias_map = bias_map
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1, **dd))
        self.query_embedding = nn.Parameter(torch.empty(num_heads, 1, dim // num_heads, **dd))
        self.rel_pos = PooledPositionBias2d(num_heads, trained_map, **dd)
        self.proj = Linear(dim, dim, **dd)

    def reset_parameters(self) -> None:
        nn.init.constant_(self.temperature, math.log(math.expm1(1 / 0.24)))
        nn.init.trunc_normal_(self.query_embedding, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Temperature and embedding of the queries."""
        return {"temperature", "query_embedding"}

    def normalized(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Each head's vectors of length 1, in float32 at least: lengths of half precision would overflow."""
        return [F.normalize(t.float() if t.dtype.itemsize < 4 else t, dim=-1) for t in tensors]

    def scaled(self, q: torch.Tensor, log_length: torch.Tensor) -> torch.Tensor:
        """Normalised queries `(B, heads, N, C / heads)` as they meet the keys, of which there are `exp(log_length)`."""
        return (q + self.query_embedding) * (F.softplus(self.temperature) * log_length)

    def bias(self, size: tuple[int, int], pooled: tuple[int, int], pooled_of_map: tuple[int, int]) -> torch.Tensor:
        """Position bias `(heads, H * W, P * Q)` of a map of `size` and its `pooled` cells.

        Args:
            size: `(H, W)`.
            pooled: `(P, Q)`.
            pooled_of_map: What `pooled` would be for `bias_map`.
        """
        if self.bias_map is None:
            return self.rel_pos(size, pooled)
        bias = self.rel_pos(self.bias_map, pooled_of_map)
        if not is_symbolic(*size) and (self.bias_map, pooled_of_map) == (size, pooled):
            return bias
        bias = bias.float()
        bias = F.interpolate(bias.unflatten(2, pooled_of_map), size=pooled, mode="bilinear").flatten(2)
        bias = bias.transpose(1, 2).unflatten(2, self.bias_map)
        return F.interpolate(bias, size=size, mode="bilinear").flatten(2).transpose(1, 2)

    def joined(self, heads: torch.Tensor, size: tuple[int, int], gates: torch.Tensor | None) -> torch.Tensor:
        """The output from what the heads give, `(B, heads, N, C / heads)`, and gates `(B, H, W, heads)` or None."""
        heads = heads.transpose(1, 2).unflatten(1, size)
        if gates is not None:
            heads = heads * gates.unsqueeze(-1).to(heads.dtype)
        return self.proj(heads.flatten(3))


@register_notrace_module
class CosineAttention2d(LengthScaledCosineAttention):
    """Attention of all positions to all.

    Arguments as in `LengthScaledCosineAttention`. Maps `(B, H, W, C)`, and gates `(B, H, W, heads)` that the heads'
    outputs are multiplied by (or None), to `(B, H, W, C)`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        trained_map: tuple[int, int],
        bias_map: tuple[int, int] | None = None,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, num_heads, trained_map, bias_map, **dd)
        self.qkv = Linear(dim, 3 * dim, **dd)
        self.reset_parameters()

    def forward(self, x: torch.Tensor, gates: torch.Tensor | None = None) -> torch.Tensor:
        size = static_size(x.shape[1]), static_size(x.shape[2])
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.normalized(q, k)
        q = self.scaled(q, torch.scalar_tensor(size[0] * size[1], dtype=q.dtype, device=q.device).log())
        bias = self.bias(size, size, self.bias_map)
        out = biased_attention(q.to(v.dtype), k.to(v.dtype), v, bias[None], scale=1.0)
        return self.joined(out, size, gates)


@shape_cache()
def _outside(height: int, width: int, window: int, device: torch.device) -> torch.Tensor:
    """`(H, W, window * window)`: -inf for the positions of a sliding window that are outside of the map, else 0."""
    step = torch.arange(window, device=device) - window // 2
    rows, columns = (torch.arange(n, device=device)[:, None] + step for n in (height, width))
    rows, columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    inside = rows[:, None, :, None] & columns[None, :, None, :]
    return torch.zeros((), device=device).masked_fill(~inside, float("-inf")).flatten(2)


@shape_cache()
def _log_lengths(height: int, width: int, window: int, pooled: int, device: torch.device) -> torch.Tensor:
    """`(H * W, 1)`: logarithm of how many keys a position has, of its window and `pooled` ones."""
    return ((_outside(height, width, window, device) == 0).sum(-1) + pooled).log().view(-1, 1)


@register_notrace_module
class AggregatedAttention(LengthScaledCosineAttention):
    """Attention to a sliding window and to the pooled map by one softmax (TransNeXt, arXiv 2311.17132, section 3.1).

    The weights of the window have another, unnormalised part: products of the query with learned tokens, one a
    position of the window, and a learned bias.

    Args:
        dim, num_heads, trained_map, bias_map: As in `LengthScaledCosineAttention`.
        reduction: The map is pooled to `H // reduction` by `W // reduction` cells, at least one.
        pool_size: Pool to that many cells a side instead ("linear inference mode"), or fewer on a smaller map.
        window_size: Side of the window, odd.

    Maps `(B, H, W, C)`, and gates `(B, H, W, heads)` that the heads' outputs are multiplied by (or None), to
    `(B, H, W, C)`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        trained_map: tuple[int, int],
        bias_map: tuple[int, int] | None = None,
        reduction: int = 8,
        pool_size: int | None = None,
        window_size: int = 3,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, num_heads, trained_map, bias_map, **dd)
        if window_size < 3 or window_size % 2 == 0:
            raise ValueError(f"window_size must be odd and at least 3, not {window_size}")
        self.reduction, self.pool_size, self.window_size = reduction, pool_size, window_size
        taps = window_size**2
        self.relative_pos_bias_local = nn.Parameter(torch.empty(num_heads, taps, **dd))
        self.learnable_tokens = nn.Parameter(torch.empty(num_heads, dim // num_heads, taps, **dd))
        self.learnable_bias = nn.Parameter(torch.empty(num_heads, 1, taps, **dd))
        self.q = Linear(dim, dim, **dd)
        self.kv = Linear(dim, 2 * dim, **dd)
        self.sr = Linear(dim, dim, **dd)
        self.act = nn.GELU()
        self.norm = nn.LayerNorm(dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.trunc_normal_(self.relative_pos_bias_local, std=4e-4)
        nn.init.trunc_normal_(self.learnable_tokens, std=0.02)
        nn.init.zeros_(self.learnable_bias)

    def no_weight_decay(self) -> set[str]:
        """Those of the base class, and the bias of the window."""
        return super().no_weight_decay() | {"relative_pos_bias_local"}

    def pooled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """`(P, Q)` of the pooled map of a map of `size`."""
        if self.pool_size is not None:
            return tuple(smaller(n, self.pool_size) for n in size)
        return tuple(larger(n // self.reduction, 1) for n in size)

    def pool(self, x: torch.Tensor, pooled: tuple[int, int]) -> torch.Tensor:
        """`(B, H, W, C)` to tokens `(B, P, Q, C)` of the pooled map."""
        x = fused(self.sr, self.act)(x).permute(0, 3, 1, 2)
        return self.norm(F.adaptive_avg_pool2d(x, pooled).permute(0, 2, 3, 1))

    def attend(
        self, q: torch.Tensor, local: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The joint softmax; its weights of the window, and what it takes from the pooled map.

        Args:
            q: `(B, heads, N, c)`.
            local: Logits `(B, heads, N, window_size ** 2)` of the window.
            k, v: `(B, heads, M, c)` of the pooled map.
            bias: `(heads, N, M)`.
        """
        taps, count = local.shape[-1], q.shape[2]
        values = local[..., 0].numel() * (k.shape[2] + taps)
        if is_plain_eager() and not torch.is_grad_enabled() and values > CHUNK and count > 1:
            step = max(1, count * CHUNK // values)
            parts = zip(q.split(step, 2), local.split(step, 2), bias.split(step, 1))
            weights, outs = zip(*(self.attend(a, b, k, v, c) for a, b, c in parts))
            return torch.cat(weights, 2), torch.cat(outs, 2)
        logits = q @ k.transpose(2, 3) + bias.to(q.dtype)
        weights = torch.cat([local, logits], -1).softmax(-1)
        return weights[..., :taps], weights[..., taps:].to(v.dtype) @ v

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        """Zero-pad `(B, heads, H, W, c)`, so that the windows of all positions that were there are inside."""
        side = self.window_size // 2
        return F.pad(x, (0, 0, side, side, side, side))

    def crop(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `windows`."""
        side = self.window_size // 2
        return x[:, :, side:-side, side:-side].flatten(2, 3)

    def forward(self, x: torch.Tensor, gates: torch.Tensor | None = None) -> torch.Tensor:
        size = static_size(x.shape[1]), static_size(x.shape[2])
        pooled = self.pooled_size(size)

        # Both maps' keys and values are of one layer, which is called once.
        tokens = torch.cat([x.flatten(1, 2), self.pool(x, pooled).flatten(1, 2)], 1)
        k, v = self.kv(tokens).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        counts = [size[0] * size[1], pooled[0] * pooled[1]]
        (k, pooled_k), (v, pooled_v) = (t.split(counts, 2) for t in (k, v))
        k, v = k.unflatten(2, size), v.unflatten(2, size)
        q = self.q(x).unflatten(-1, (self.num_heads, -1)).permute(0, 3, 1, 2, 4)
        q, k, pooled_k = self.normalized(q, k, pooled_k)
        plain = q.flatten(2, 3)
        scaled = self.scaled(plain, _log_lengths(*size, self.window_size, counts[1], x.device).to(q.dtype))
        scaled, k, pooled_k = (t.to(v.dtype) for t in (scaled, k, pooled_k))

        local = self.crop(neighborhood_qk(*map(self.windows, (scaled.unflatten(2, size), k)), self.window_size))
        outside = _outside(*size, self.window_size, x.device).flatten(0, 1)
        local = local + (self.relative_pos_bias_local[:, None] + outside).to(local.dtype)
        map_pooled = None if self.bias_map is None else self.pooled_size(self.bias_map)
        bias = self.bias(size, pooled, map_pooled)
        local, out = self.attend(scaled, local, pooled_k, pooled_v, bias)

        local = local + (plain.to(v.dtype) @ self.learnable_tokens + self.learnable_bias).to(local.dtype)
        padded = self.windows(local.to(v.dtype).unflatten(2, size))
        out = out + self.crop(neighborhood_av(padded, self.windows(v), self.window_size))
        return self.joined(out, size, gates)
