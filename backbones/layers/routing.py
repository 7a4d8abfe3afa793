"""Bi-level routing attention: regions pick regions, then tokens attend to the tokens of the picked regions.

Source: Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023 (arXiv 2303.08810),
section 3.2. Shapes below: B images, R regions of t tokens each, k routed regions a query region, D channels of queries
and keys, C channels of values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn
from torch.autograd.function import once_differentiable

from backbones._compat import is_plain_eager
from backbones.layers.pointwise import Linear
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
        return _attend(q.flatten(1, 2), kv.flatten(1, 2), num_heads, scale, mask).unflatten(1, (regions, tokens))

    first = torch.arange(batch, device=index.device).view(-1, 1, 1) * regions
    rows = (index + first).flatten(0, 1)
    q, kv = q.flatten(0, 1), kv.flatten(0, 1)
    if not is_plain_eager() or topk == 1:
        out = _attend(q, _gather(kv, rows), num_heads, scale)
    else:
        limit = _CHUNK_CPU if q.device.type == "cpu" else _CHUNK_GPU
        out = _ChunkedAttention.apply(q, kv, rows, num_heads, scale, max(1, limit // (topk * keys * width)))
    return out.unflatten(0, (batch, regions))


def _gather(kv: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`(N, m, D + C)` and `(n, k)` rows of it to `(n, k * m, D + C)`."""
    count, topk = rows.shape
    return kv.index_select(0, rows.flatten()).view(count, topk * kv.shape[1], kv.shape[2])


def _attend(
    q: torch.Tensor, kv: torch.Tensor, num_heads: int, scale: float, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """`(N, t, D)` queries, `(N, m, D + C)` keys and values to `(N, t, C)`; heads are views."""
    dim = q.shape[-1]
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, kv[..., :dim], kv[..., dim:]))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2).flatten(2)


def _size(n: int | torch.Tensor) -> int:
    """A side as a number: it is a tensor under `torch.jit.trace`."""
    return int(n) if isinstance(n, torch.Tensor) else n


def _larger(n: int | torch.SymInt, other: int) -> int | torch.SymInt:
    """`max` that binds no symbolic size to the side it is on."""
    return max(n, other) if isinstance(n, int) else torch.sym_max(n, other)


def _smaller(n: int | torch.SymInt, other: int) -> int | torch.SymInt:
    return min(n, other) if isinstance(n, int) else torch.sym_min(n, other)


class _ChunkedAttention(torch.autograd.Function):
    """Gather and attend, `chunk` query regions at a time; the backward pass repeats both instead of keeping them."""

    @staticmethod
    def forward(q, kv, rows, num_heads, scale, chunk):
        out = q.new_empty(*q.shape[:2], kv.shape[-1] - q.shape[-1])
        with no_autocast(q.device):
            for at in range(0, len(rows), chunk):
                part = slice(at, at + chunk)
                out[part] = _attend(q[part], _gather(kv, rows[part]), num_heads, scale)
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
                out = _attend(q_part, kv_part, ctx.num_heads, ctx.scale)
            grad_q[part], grad_part = torch.autograd.grad(out, (q_part, kv_part), grad[part])
            grad_kv.index_add_(0, rows[part].flatten(), grad_part.reshape(-1, *kv.shape[1:]).to(grad_kv.dtype))
        return grad_q, grad_kv.to(kv.dtype), None, None, None, None


class _Grid(NamedTuple):
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


class Router(nn.Linear):
    """A linear layer that computes in the type of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


@register_notrace_module
class BiLevelRoutingAttention(nn.Module):
    """Bi-level routing attention (BiFormer, arXiv 2303.08810, section 3.2), with the authors' two ways of padding.

    The map is cut into `n_win` x `n_win` regions. Every region keeps the `topk` regions whose mean key has the largest
    product with its mean query; its tokens attend to all tokens of those. A depthwise convolution on the values (LePE)
    adds locality. Hard routing carries no gradient. Region means and scores are at least float32, under autocast too: a
    rounding error here exchanges whole regions.

    Nothing masks padding. With `pad="input"` the input is padded to multiples of `n_win`, and padded tokens have the
    biases as query, key and value. With `pad="qkv"` regions have floor(H / n_win) x floor(W / n_win) tokens (at least
    1), there are as many as it takes, queries, keys and values are padded after their projection, and the means count
    real tokens only. Both are the same function where `n_win` divides the map.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide `dim` and `qk_dim`.
        n_win: Regions a side.
        topk: Regions that a region attends to, at most `n_win` ** 2.
        qk_dim: Channels D of queries and keys; `dim` if None. The logits are scaled by D ** -0.5, over all heads.
        lepe_kernel: Side of the depthwise convolution on the values, odd; 0 for none.
        pad: "input" or "qkv".
        kv_pool: Module on every region's keys and values as `(B * R, D + C, h, w)`, for example
            `nn.AdaptiveAvgPool2d(2)`; routing and LePE see them unpooled.
        soft_routing: Multiply the gathered keys and values by their region's softmaxed score. (Keeps the whole gather.)
        diff_routing: Let gradients flow through the scores; needs `soft_routing`.
        param_routing: Project the means of queries and keys by one shared linear layer; needs `diff_routing`.

    Maps `(B, H, W, C)` to `(B, H, W, C)`.

    Raises:
        ValueError: Sizes or options that do not go together.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        n_win: int = 7,
        topk: int = 4,
        qk_dim: int | None = None,
        lepe_kernel: int = 5,
        pad: str = "input",
        kv_pool: nn.Module | None = None,
        soft_routing: bool = False,
        diff_routing: bool = False,
        param_routing: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        qk_dim = dim if qk_dim is None else qk_dim
        if dim % num_heads or qk_dim % num_heads:
            raise ValueError(f"dim {dim} and qk_dim {qk_dim} must be multiples of num_heads {num_heads}")
        if not 1 <= topk <= n_win**2:
            raise ValueError(f"topk must be between 1 and n_win ** 2 = {n_win**2}, not {topk}")
        if lepe_kernel and lepe_kernel % 2 == 0:
            raise ValueError(f"lepe_kernel must be odd, or 0 for none, not {lepe_kernel}")
        if pad not in ("input", "qkv"):
            raise ValueError(f'pad must be "input" or "qkv", not {pad!r}')
        if (param_routing and not diff_routing) or (diff_routing and not soft_routing):
            raise ValueError("param_routing needs diff_routing=True, and diff_routing needs soft_routing=True")
        self.num_heads = num_heads
        self.n_win = n_win
        self.topk = topk
        self.qk_dim = qk_dim
        self.scale = qk_dim**-0.5
        self.pad = pad
        self.soft_routing = soft_routing
        self.diff_routing = diff_routing
        self.q = Linear(dim, qk_dim, **dd)
        self.kv = Linear(dim, qk_dim + dim, **dd)
        self.router = Router(qk_dim, qk_dim, **dd) if param_routing else nn.Identity()
        self.kv_pool = kv_pool
        self.lepe = (
            nn.Conv2d(dim, dim, lepe_kernel, padding=lepe_kernel // 2, groups=dim, **dd) if lepe_kernel else None
        )
        self.proj = Linear(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = _size(x.shape[1]), _size(x.shape[2])
        grid = self._grid(height, width)
        q, kv, v_map = self._project(x, grid)
        index, score = self._route(q, kv, grid, height, width)
        if self.kv_pool is not None:
            kv = kv.flatten(0, 1).unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)
            kv = self.kv_pool(kv).permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, q.shape[:2])
        if self.soft_routing:
            weight = score.softmax(-1).to(kv.dtype).flatten()[:, None, None]
            rows = index + torch.arange(len(index), device=index.device).view(-1, 1, 1) * index.shape[1]
            routed = (kv.flatten(0, 1).index_select(0, rows.flatten()) * weight).unflatten(0, index.shape)
            out = _attend(q.flatten(0, 1), routed.flatten(2, 3).flatten(0, 1), self.num_heads, self.scale)
            out = out.unflatten(0, q.shape[:2])
        else:
            out = routed_attention(q, kv, index, self.num_heads, self.scale)
        out = grid.join(out)
        if self.pad == "qkv":
            out = grid.crop(out, height, width)
        if self.lepe is not None:
            out = out + self.lepe(v_map.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.pad == "input":
            out = grid.crop(out, height, width)
        return self.proj(out)

    @torch.no_grad()
    def routes(self, x: torch.Tensor) -> torch.Tensor:
        """The regions that every region of a `(B, H, W, C)` map attends to, best first: `(B, R, topk)`, row-major."""
        height, width = _size(x.shape[1]), _size(x.shape[2])
        grid = self._grid(height, width)
        return self._route(*self._project(x, grid)[:2], grid, height, width)[0]

    def _grid(self, height: int, width: int) -> _Grid:
        n = self.n_win
        if self.pad == "input":
            return _Grid(n, n, (height + n - 1) // n, (width + n - 1) // n)
        h, w = _larger(height // n, 1), _larger(width // n, 1)
        return _Grid((height + h - 1) // h, (width + w - 1) // w, h, w)

    def _project(self, x: torch.Tensor, grid: _Grid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries `(B, R, t, D)`, keys and values `(B, R, t, D + C)`, and the value map that LePE reads."""
        if self.pad == "input":
            x = grid.cut(x)
            kv = self.kv(x)
            return self.q(x), kv, grid.join(kv[..., self.qk_dim :])
        kv = self.kv(x)
        return grid.cut(self.q(x)), grid.cut(kv), kv[..., self.qk_dim :]

    def _route(
        self, q: torch.Tensor, kv: torch.Tensor, grid: _Grid, height: int, width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of the routed regions and their scores, both `(B, R, k)`, best first (equations 3 to 5)."""
        k = kv[..., : self.qk_dim]
        if not self.diff_routing:
            q, k = q.detach(), k.detach()
        with no_autocast(q.device):
            dtype = torch.promote_types(q.dtype, torch.float32)
            if self.pad == "input":
                q, k = (x.mean(2, dtype=dtype) for x in (q, k))
            else:
                count = grid.token_count(height, width, q.device)
                q, k = (x.sum(2, dtype=dtype) / count for x in (q, k))
            q, k = self.router(torch.stack((q, k))).unbind()
            scores = (q * self.scale) @ k.transpose(1, 2)
            # A map smaller than n_win has fewer regions with pad="qkv".
            topk = self.topk if self.pad == "input" else _smaller(grid.rows * grid.cols, self.topk)
            score, index = scores.topk(topk, dim=-1)
        return index, score

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, n_win={self.n_win}, topk={self.topk}, pad={self.pad!r}"
