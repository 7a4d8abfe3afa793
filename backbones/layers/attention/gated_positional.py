"""Attention that learns how much to look at contents, and how much at positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.pointwise import Linear
from backbones.ops.autocast import no_autocast
from backbones.ops.cache import shape_cache


@shape_cache()
def _offsets(height: int, width: int, device: torch.device) -> torch.Tensor:
    """`(H * H + W * W, 3)`: (0, dy, dy^2) of every pair of rows, then (dx, 0, dx^2) of columns; key minus query."""
    (dy, dx) = (torch.arange(n, device=device, dtype=torch.float32) for n in (height, width))
    dy, dx = ((d[None, :] - d[:, None]).flatten() for d in (dy, dx))
    rows = torch.stack([torch.zeros_like(dy), dy, dy * dy], dim=-1)
    columns = torch.stack([dx, torch.zeros_like(dx), dx * dx], dim=-1)
    return torch.cat([rows, columns])


@register_notrace_module
class GatedPositionalAttention(nn.Module):
    """Gated positional self-attention (GPSA; ConViT, arXiv 2103.10697, section 3.1, equation 7).

    Each head mixes `softmax(q @ k^T / sqrt(d))` and `softmax(pos_proj(dx, dy, dx^2 + dy^2))`. The second has a share of
    `sigmoid(gating_param)`, and is the product of one softmax over rows and one over columns, so the values are mixed
    along one axis after the other, and weights of all pairs of positions are never made.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        locality_strength: How sharply the heads look at their neighbour at the start.

    Maps tokens `(B, H * W, C)` of a grid `(H, W)` to the same shape.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    resets_children = True  # see `BaseModel.init_weights`

    def __init__(self, dim: int, num_heads: int = 8, locality_strength: float = 1.0, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.locality_strength = locality_strength
        self.gating_param = nn.Parameter(torch.empty(num_heads, **dd))
        self.qk = Linear(dim, 2 * dim, bias=False, **dd)
        self.v = Linear(dim, dim, bias=False, **dd)
        self.proj = Linear(dim, dim, **dd)
        self.pos_proj = nn.Linear(3, num_heads, **dd)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Let each head copy one of the `k * k` nearest pixels, `k * k` the largest square number of heads.

        Heads beyond them keep the `pos_proj` that they have.
        """
        nn.init.ones_(self.gating_param)
        nn.init.eye_(self.v.weight)
        nn.init.zeros_(self.pos_proj.bias)
        side = int(self.num_heads**0.5)
        centre = (side - 1) / 2 if side % 2 == 0 else side // 2
        for head in range(side * side):
            dx, dy = head // side - centre, head % side - centre
            for i, value in enumerate((2 * dx, 2 * dy, -1)):
                self.pos_proj.weight[head, i] = self.locality_strength * value

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        height, width = grid
        q, k = self._queries_and_keys(x)
        v = self.v(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        content = F.scaled_dot_product_attention(q, k, v)
        rows, columns = (weights.to(v.dtype) for weights in self._position_weights(height, width, x.device))
        moved = columns[:, None] @ v.unflatten(2, (height, width))
        moved = (rows @ moved.flatten(3)).view_as(v)
        gate = self.gating_param.sigmoid().to(v.dtype)[:, None, None]
        out = content + gate * (moved - content)
        return self.proj(out.transpose(1, 2).flatten(2))

    def attention(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """The weights `(B, heads, H * W, H * W)`, query by key, that `forward` multiplies the values by."""
        q, k = self._queries_and_keys(x)
        content = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        rows, columns = self._position_weights(*grid, x.device)
        position = torch.einsum("hij,hkl->hikjl", rows, columns).flatten(3).flatten(1, 2)
        gate = self.gating_param.sigmoid()[:, None, None]
        return (1 - gate) * content + gate * position

    def _queries_and_keys(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each `(B, heads, N, d)`."""
        return self.qk(x).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _position_weights(self, height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """`(heads, H, H)` of rows and `(heads, W, W)` of columns, query by key, in float32 at least."""
        offsets = _offsets(height, width, device)
        with no_autocast(device):  # squared distances are large
            logits = self.pos_proj(offsets.to(self.gating_param.dtype)).T
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        rows, columns = logits.split([height * height, width * width], dim=1)
        return rows.unflatten(1, (height, height)).softmax(-1), columns.unflatten(1, (width, width)).softmax(-1)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, locality_strength={self.locality_strength}"


@register_notrace_module
class GatedPositionalAttention2d(GatedPositionalAttention):
    """The same of a map, `(B, H, W, C)` to `(B, H, W, C)`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = (x.shape[1], x.shape[2])
        return super().forward(x.flatten(1, 2), grid).unflatten(1, grid)
