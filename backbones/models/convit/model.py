"""ConViT: vision transformers with soft convolutional inductive biases (d'Ascoli et al., ICML 2021, arXiv 2103.10697).

- A plain vision transformer whose first ten blocks mix content attention with attention to positions, by a learned gate
  of every head. The positions' weights start as a convolution's taps do: each head looks at one neighbour.
- The class token, which has no position, joins after those blocks.

Differences from the paper: the mixture is not divided by its sum over the keys, which is one; other than the authors'
code, the models take any image: the position embedding is resized, bicubic, and incomplete patches are zero-padded.
"""

from __future__ import annotations

from timm.layers import calculate_drop_path_rates
from torch import nn

from backbones.layers.attention.gated_positional import GatedPositionalAttention
from backbones.layers.attention.global_attention import TokenAttention
from backbones.layers.block import TokenBlock
from backbones.layers.head import TokenHead
from backbones.layers.patch import PatchEmbed
from backbones.layers.tokens import ClassToken, PositionEmbedding
from backbones.models.isotropic import IsotropicModel, grid_size


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
