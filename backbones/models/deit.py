"""DeiT around any token mixer (Touvron et al., ICML 2021, arXiv 2012.12877), without its distillation token.

timm has DeiT's own models.
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import calculate_drop_path_rates
from torch import nn

from backbones.layers.block import GridBlock, TokenBlock
from backbones.layers.head import TokenHead
from backbones.layers.mixers import Entry, set_map_size, stage_mixers
from backbones.layers.patch import PatchEmbed
from backbones.layers.tokens import ClassToken, PositionEmbedding
from backbones.models.isotropic import IsotropicModel, grid_size


class DeiT(IsotropicModel):
    """Vision transformer of one resolution, with any token mixer in the place of its attention.

    Most mixers take a map, which a class token is not part of. So it joins, as in ConViT (arXiv 2103.10697), after the
    last block whose mixer takes a map alone: before the first block with softmax, agent or InLine attention in all of
    them. Where the last block's mixer takes a map alone there is no class token, and the tokens' mean is classified.

    Takes images of any size: the position embedding is resized to their grid, bicubic, and so is what the mixers store.

    Args:
        img_size: Side of the images, or `(height, width)`, that position embedding and mixers are made for.
        patch_size: Side of a patch, in pixels.
        dim: Channels.
        depth: Blocks.
        num_heads: Heads.
        mixer: Token mixer of the blocks, or a sequence of one a block, the last of which is repeated; see
            `layers.mixers`.
        mlp_ratio: Hidden width of the MLPs over the channels.
        global_pool: As in `TokenPool`; None for "token" where there is a class token, else "avg".
        in_chans, num_classes, drop_rate, drop_path_rate, device, dtype: See `IsotropicModel`.

    Raises:
        ValueError: Heads that do not divide the channels, or a mixer or an option that does not exist.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str | None = None,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mixer: Entry | Sequence[Entry] = "softmax",
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        mixers, grid = stage_mixers(mixer, depth), grid_size(img_size, patch_size)
        joins = 1 + max((i for i, one in enumerate(mixers) if not one.takes_prefix), default=-1)
        blocks = []
        for i, rate in enumerate(calculate_drop_path_rates(drop_path_rate, depth)):
            given = {"map_size": grid, "block": i, **dd}
            if mixers[i].takes_prefix:
                kind, given["num_prefix_tokens"] = TokenBlock, int(i >= joins)
            else:
                kind = GridBlock
            blocks.append(kind(dim, mixers[i](dim, num_heads, **given), mlp_ratio, 1e-6, drop_path=rate, **dd))
        prefix = int(joins < depth)
        pool = global_pool if global_pool is not None else "token" if prefix else "avg"
        super().__init__(
            stem=PatchEmbed(in_chans, dim, patch_size, **dd),
            class_token=ClassToken(dim, **dd) if prefix else None,
            class_token_at=joins if prefix else 0,
            pos_embed=PositionEmbedding(dim, grid, int(joins == 0), **dd),
            blocks=blocks,
            dim=dim,
            reduction=patch_size,
            norm=nn.LayerNorm(dim, eps=1e-6, **dd),
            head=TokenHead(dim, num_classes, pool, prefix, drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )

    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Fit position embedding and mixers to images of another size.

        Args:
            img_size: Side of the images, or `(height, width)`.
        """
        super().set_input_size(img_size)
        if img_size is not None:
            set_map_size(self.blocks, grid_size(img_size, self.feature_info[0]["reduction"]))
