"""Vanilla SpectFormer: a vision transformer whose first blocks have spectral gating (Patro et al., arXiv 2304.06446).

A spectral block has one shortcut, around filter and MLP together, as in GFNet (arXiv 2107.00645). There is no class
token. The authors' code takes images of one size; here position embedding and filters are resized to any, as they are
for fine-tuning.

Differences from the paper: the number of heads of the largest model is not known, and taken for heads as wide as in the
others; the authors publish no weights.
"""

from __future__ import annotations

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from torch import nn

from backbones.layers.attention.global_attention import TokenAttention
from backbones.layers.block import TokenBlock
from backbones.layers.head import TokenHead
from backbones.layers.mixers import set_map_size
from backbones.layers.patch import PatchEmbed
from backbones.layers.pointwise import Mlp
from backbones.layers.spectral import SpectralGating
from backbones.layers.tokens import PositionEmbedding
from backbones.models.isotropic import IsotropicModel, grid_size

NORM_EPS = 1e-6


class SpectralBlock(nn.Module):
    """`x + mlp(norm(gating(norm(x))))` of tokens `(B, H * W, C)` of a grid `(H, W)`.

    Args:
        dim: Channels C.
        map_size: Grid that the filter is stored for.
        mlp_ratio: Hidden width of the MLP is `int(C * mlp_ratio)`.
        drop_path: Stochastic depth rate.
    """

    def __init__(
        self,
        dim: int,
        map_size: tuple[int, int],
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS, **dd)
        self.attn = SpectralGating(dim, map_size, **dd)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        mixed = self.attn(self.norm1(x).unflatten(1, grid)).flatten(1, 2)
        return x + self.drop_path(self.mlp(self.norm2(mixed)))


class VanillaSpectFormer(IsotropicModel):
    """Vanilla SpectFormer.

    Takes images of any size: incomplete patches are zero-padded, position embedding and filters are resized.

    Args:
        img_size: Side of the images, or `(height, width)`, that position embedding and filters are stored for.
        patch_size: Side of a patch, in pixels.
        dim: Channels.
        depth: Blocks.
        num_heads: Heads of the attention.
        spectral_depth: First blocks that have spectral gating.
        mlp_ratio: Hidden width of the MLPs over the channels.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `IsotropicModel`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        spectral_depth: int = 4,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        grid = grid_size(img_size, patch_size)
        blocks = []
        for i, rate in enumerate(calculate_drop_path_rates(drop_path_rate, depth)):
            if i < spectral_depth:
                blocks.append(SpectralBlock(dim, grid, mlp_ratio, rate, **dd))
            else:
                attention = TokenAttention(dim, num_heads, **dd)
                blocks.append(TokenBlock(dim, attention, mlp_ratio, norm_eps=NORM_EPS, drop_path=rate, **dd))
        super().__init__(
            stem=PatchEmbed(in_chans, dim, patch_size, **dd),
            pos_embed=PositionEmbedding(dim, grid, **dd),
            blocks=blocks,
            dim=dim,
            reduction=patch_size,
            norm=nn.LayerNorm(dim, eps=NORM_EPS, **dd),
            head=TokenHead(dim, num_classes, global_pool, num_prefix_tokens=0, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )

    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Resize the stored position embedding and filters to images of another size.

        Args:
            img_size: Side of the images, or `(height, width)`.
        """
        super().set_input_size(img_size)
        if img_size is not None:
            set_map_size(self.blocks, grid_size(img_size, self.feature_info[0]["reduction"]))
