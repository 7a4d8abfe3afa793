"""Bi-level routing attention: regions pick regions, then tokens attend to the tokens of the picked regions.

Source: Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023 (arXiv 2303.08810),
section 3.2. Shapes as in `backbones.ops.routing.operators`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.pointwise import Linear
from backbones.ops.autocast import no_autocast
from backbones.ops.routing import Regions, routed_attention
from backbones.ops.sizes import crop_map, larger, smaller, static_size


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
        soft_routing: Multiply the routed keys and values by their region's softmaxed score, all of them at once.
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
        height, width = static_size(x.shape[1]), static_size(x.shape[2])
        grid = self._regions(height, width)
        q, kv, v_map = self._project(x, grid)
        index, score = self._route(q, kv, grid, height, width)
        if self.kv_pool is not None:
            kv = kv.flatten(0, 1).unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)
            kv = self.kv_pool(kv).permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, q.shape[:2])
        weight = score.softmax(-1) if self.soft_routing else None
        out = routed_attention(q, kv, index, self.num_heads, self.scale, weight)
        out = grid.join(out)
        if self.pad == "qkv":
            out = crop_map(out, height, width)
        if self.lepe is not None:
            out = out + self.lepe(v_map.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.pad == "input":
            out = crop_map(out, height, width)
        return self.proj(out)

    @torch.no_grad()
    def routes(self, x: torch.Tensor) -> torch.Tensor:
        """The regions that every region of a `(B, H, W, C)` map attends to, best first: `(B, R, topk)`, row-major."""
        height, width = static_size(x.shape[1]), static_size(x.shape[2])
        grid = self._regions(height, width)
        return self._route(*self._project(x, grid)[:2], grid, height, width)[0]

    def _regions(self, height: int, width: int) -> Regions:
        n = self.n_win
        if self.pad == "input":
            return Regions(n, n, (height + n - 1) // n, (width + n - 1) // n)
        h, w = larger(height // n, 1), larger(width // n, 1)
        return Regions((height + h - 1) // h, (width + w - 1) // w, h, w)

    def _project(self, x: torch.Tensor, grid: Regions) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries `(B, R, t, D)`, keys and values `(B, R, t, D + C)`, and the value map that LePE reads."""
        if self.pad == "input":
            x = grid.cut(x)
            kv = self.kv(x)
            return self.q(x), kv, grid.join(kv[..., self.qk_dim :])
        kv = self.kv(x)
        return grid.cut(self.q(x)), grid.cut(kv), kv[..., self.qk_dim :]

    def _route(
        self, q: torch.Tensor, kv: torch.Tensor, grid: Regions, height: int, width: int
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
            topk = self.topk if self.pad == "input" else smaller(grid.rows * grid.cols, self.topk)
            score, index = scores.topk(topk, dim=-1)
        return index, score

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, n_win={self.n_win}, topk={self.topk}, pad={self.pad!r}"
