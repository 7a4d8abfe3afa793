"""ConViT: vision transformers with soft convolutional inductive biases (d'Ascoli et al., ICML 2021, arXiv 2103.10697).

- A plain vision transformer whose first ten blocks mix content attention with attention to positions, by a learned gate
  of every head. The positions' weights start as a convolution's taps do: each head looks at one neighbour.
- The class token, which has no position, joins after those blocks.

Differences from the paper: the mixture is not divided by its sum over the keys, which is one; other than the authors'
code, the models take any image: the position embedding is resized, bicubic, and incomplete patches are zero-padded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import calculate_drop_path_rates, register_notrace_module
from torch import nn

from backbones.layers.attention.global_attention import TokenAttention
from backbones.layers.block import TokenBlock
from backbones.layers.head import TokenHead
from backbones.layers.patch import PatchEmbed
from backbones.layers.pointwise import Linear
from backbones.layers.tokens import ClassToken, PositionEmbedding
from backbones.models.isotropic import IsotropicModel, grid_size
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
    """Gated positional self-attention (section 3.1, equation 7).

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


class ConViT(IsotropicModel):
    """Convolutional vision transformer.

    Takes images of any size: incomplete patches are zero-padded, and the position embedding is resized.

    Args:
        img_size: Side of the images, or `(height, width)`, that the position embedding is stored for.
        patch_size: Side of a patch, in pixels.
        dim: Channels.
        depth: Blocks.
        num_heads: Heads.
        local_depth: First blocks with gated positional attention; the class token joins after them.
        locality_strength: How sharply their heads look at a neighbour at the start.
        mlp_ratio: Hidden width of the MLPs over the channels.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `IsotropicModel`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        dim: int = 432,
        depth: int = 12,
        num_heads: int = 9,
        local_depth: int = 10,
        locality_strength: float = 1.0,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        blocks = []
        for i, rate in enumerate(calculate_drop_path_rates(drop_path_rate, depth)):
            if i < local_depth:
                mixer = GatedPositionalAttention(dim, num_heads, locality_strength, **dd)
            else:
                mixer = TokenAttention(dim, num_heads, qkv_bias=False, **dd)
            blocks.append(TokenBlock(dim, mixer, mlp_ratio, norm_eps=1e-6, drop_path=rate, **dd))
        super().__init__(
            stem=PatchEmbed(in_chans, dim, patch_size, **dd),
            class_token=ClassToken(dim, **dd),
            class_token_at=local_depth,
            pos_embed=PositionEmbedding(dim, grid_size(img_size, patch_size), **dd),
            blocks=blocks,
            dim=dim,
            reduction=patch_size,
            norm=nn.LayerNorm(dim, eps=1e-6, **dd),
            head=TokenHead(dim, num_classes, global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )

    def init_weights(self, needs_reset: bool = True) -> None:
        super().init_weights(needs_reset)
        for module in self.modules():  # after their linear layers
            if isinstance(module, GatedPositionalAttention):
                module.reset_parameters()
