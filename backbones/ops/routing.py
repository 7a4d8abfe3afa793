"""Attention of regions of a map to routed regions of it.

Source: Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023 (arXiv 2303.08810),
section 3.2. Shapes below: B images, R regions of t tokens each, k routed regions a query region, D channels of queries
and keys, C channels of values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from backbones._compat import is_plain_eager
from backbones.ops.autocast import backward_without_autocast, no_autocast

# Elements of keys and values gathered at a time. On CPU a chunk that stays in cache is far faster than the whole.
_CHUNK_CPU, _CHUNK_GPU = 2**20, 2**26

# Up to this many tokens a map, and regions over k, one masked product over the map beats a gather with tiny queries.
_DENSE_TOKENS, _DENSE_RATIO = 256, 4


def routed_attention(
    q: torch.Tensor, kv: torch.Tensor, index: torch.Tensor, num_heads: int, scale: float | None = None
) -> torch.Tensor:
    """Attention of every region's queries to all keys of its routed regions (section 3.2, equation 6).

    No more than a bounded part of the k copies of keys and values exists at a time, in the backward pass neither: it is
    gathered again there. While a graph is captured the gather is one operation. Small maps are done densely, masked.

    Args:
        q: Queries `(B, R, t, D)`.
        kv: Keys and values side by side `(B, R, m, D + C)`; m may differ from t.
        index: Routed regions of every region, `(B, R, k)`, integers in [0, R), all different.
        num_heads: Heads; must divide D and C. Channel c belongs to head c // (width of a head).
        scale: Factor of the logits; (D / heads) ** -0.5 if None.

    Returns:
        `(B, R, t, C)`.
    """
    batch, regions, tokens, dim = q.shape
    keys, width = kv.shape[2:]
    topk = index.shape[-1]
    scale = (dim // num_heads) ** -0.5 if scale is None else scale
    # Symbolic sizes must not be compared: that would bind an exported program to one side of the threshold.
    if (
        isinstance(regions * tokens * keys, int)
        and regions * max(tokens, keys) <= _DENSE_TOKENS
        and regions <= _DENSE_RATIO * topk
    ):
        mask = q.new_full((batch, regions, regions), float("-inf")).scatter(2, index, 0.0)
        mask = mask[:, None, :, None, :, None].expand(-1, 1, -1, tokens, -1, keys).flatten(4).flatten(2, 3)
        return attend(q.flatten(1, 2), kv.flatten(1, 2), num_heads, scale, mask).unflatten(1, (regions, tokens))

    first = torch.arange(batch, device=index.device).view(-1, 1, 1) * regions
    rows = (index + first).flatten(0, 1)
    q, kv = q.flatten(0, 1), kv.flatten(0, 1)
    if not is_plain_eager() or topk == 1:
        out = attend(q, _gather(kv, rows), num_heads, scale)
    else:
        limit = _CHUNK_CPU if q.device.type == "cpu" else _CHUNK_GPU
        out = _ChunkedAttention.apply(q, kv, rows, num_heads, scale, max(1, limit // (topk * keys * width)))
    return out.unflatten(0, (batch, regions))


def _gather(kv: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`(N, m, D + C)` and `(n, k)` rows of it to `(n, k * m, D + C)`."""
    count, topk = rows.shape
    return kv.index_select(0, rows.flatten()).view(count, topk * kv.shape[1], kv.shape[2])


def attend(
    q: torch.Tensor, kv: torch.Tensor, num_heads: int, scale: float, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """`(N, t, D)` queries, `(N, m, D + C)` keys and values to `(N, t, C)`; heads are views."""
    dim = q.shape[-1]
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, kv[..., :dim], kv[..., dim:]))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2).flatten(2)


class _ChunkedAttention(torch.autograd.Function):
    """Gather and attend, `chunk` query regions at a time; the backward pass repeats both instead of keeping them."""

    @staticmethod
    def forward(q, kv, rows, num_heads, scale, chunk):
        out = q.new_empty(*q.shape[:2], kv.shape[-1] - q.shape[-1])
        with no_autocast(q.device):
            for at in range(0, len(rows), chunk):
                part = slice(at, at + chunk)
                out[part] = attend(q[part], _gather(kv, rows[part]), num_heads, scale)
        return out

    @staticmethod
    def setup_context(ctx, inputs, output):
        q, kv, rows, ctx.num_heads, ctx.scale, ctx.chunk = inputs
        ctx.save_for_backward(q, kv, rows)

    @staticmethod
    @once_differentiable
    @backward_without_autocast
    def backward(ctx, grad):
        q, kv, rows = ctx.saved_tensors
        grad_q = torch.empty_like(q)
        # A region's gradient is the sum over all that picked it: too many terms for half precision.
        grad_kv = torch.zeros_like(kv, dtype=torch.promote_types(kv.dtype, torch.float32))
        for at in range(0, len(rows), ctx.chunk):
            part = slice(at, at + ctx.chunk)
            with torch.enable_grad():
                q_part = q[part].detach().requires_grad_()
                kv_part = _gather(kv.detach(), rows[part]).requires_grad_()
                out = attend(q_part, kv_part, ctx.num_heads, ctx.scale)
            grad_q[part], grad_part = torch.autograd.grad(out, (q_part, kv_part), grad[part])
            grad_kv.index_add_(0, rows[part].flatten(), grad_part.reshape(-1, *kv.shape[1:]).to(grad_kv.dtype))
        return grad_q, grad_kv.to(kv.dtype), None, None, None, None


class Regions(NamedTuple):
    """`rows` x `cols` regions of `height` x `width` tokens; they cover the map and may stand out right and below."""

    rows: int
    cols: int
    height: int
    width: int

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, H, W, C)` to `(B, R, t, C)`, zero-padded; regions and their tokens in row-major order. One copy."""
        pad_h, pad_w = self.rows * self.height - x.shape[1], self.cols * self.width - x.shape[2]
        # A symbolic padding is always applied, so that an exported program holds for every size.
        if not (isinstance(pad_h, int) and isinstance(pad_w, int)) or pad_h or pad_w:
            x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
        batch, _, _, dim = x.shape
        x = x.reshape(batch, self.rows, self.height, self.cols, self.width, dim).transpose(2, 3)
        return x.reshape(batch, self.rows * self.cols, self.height * self.width, dim)

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, R, t, C)` to `(B, rows * height, cols * width, C)`. One copy."""
        batch, _, _, dim = x.shape
        x = x.reshape(batch, self.rows, self.cols, self.height, self.width, dim).transpose(2, 3)
        return x.reshape(batch, self.rows * self.height, self.cols * self.width, dim)

    def crop(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The top left `(B, height, width, C)` of a joined map."""
        pad_h, pad_w = self.rows * self.height - height, self.cols * self.width - width
        if isinstance(pad_h, int) and isinstance(pad_w, int):
            return x[:, :height, :width]
        # A slice of symbolic size would be compared with its base to learn its layout; an index is just copied.
        x = x.index_select(1, torch.arange(height, device=x.device))
        return x.index_select(2, torch.arange(width, device=x.device))

    def token_count(self, height: int, width: int, device: torch.device) -> torch.Tensor:
        """`(R, 1)`: tokens of every region that lie on a map of `height` x `width`."""
        rows = (height - torch.arange(self.rows, device=device) * self.height).clamp(max=self.height)
        cols = (width - torch.arange(self.cols, device=device) * self.width).clamp(max=self.width)
        return (rows[:, None] * cols).view(-1, 1)
