"""The skeleton of vision transformers that keep one grid of tokens from the first block to the last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.fx
from timm.layers import to_2tuple
from timm.models import checkpoint
from torch import nn

from backbones._compat import MATCH_PREV_GROUP, feature_take_indices, is_plain_eager, update_model_input_size
from backbones.layers.selection import Kept, Selection, whole_tokens
from backbones.layers.tokens import ClassToken, PositionEmbedding
from backbones.models.skeleton import BaseModel
from backbones.ops.plain import is_watched

torch.fx.wrap("whole_tokens")  # timm's marks reach functions that a module's own `forward` calls


class IsotropicModel(BaseModel):
    """A vision transformer of blocks on tokens, and everything that timm and dense predictors ask of one.

    A family builds its parts and hands them over. Tokens are `(B, P + H * W, C)`: P prefix tokens (one, where there is
    a class token), then those of the grid `(H, W)`, row by row. Every block is called with tokens and grid, so that a
    mixer may see a map in them. Features are those of single blocks, without prefix tokens unless they are asked for.

    A block that drops tokens, or leaves pairs of them out of attention, has `selects = True`: it is called with what is
    `Kept` too, and returns tokens and what is kept after it. `selections` shows what such models look at. In inference
    they compute the kept tokens alone; outputs of the model have all of them.

    Images of any size are taken: the stem pads them, and the position embedding is resized to their grid. Constructors
    of all families take what `BaseModel` says; `global_pool` is as in `TokenPool`.

    Args:
        stem: `(B, in_chans, height, width)` to the map `(B, C, H, W)` of the first block's tokens.
        blocks: Modules of `(tokens, grid)`, each to tokens of the same shape.
        dim: Channels C.
        norm: Final norm, of all tokens.
        head: `TokenHead`, or one with its interface.
        reduction: Stride of the map with respect to the image.
        class_token: Joins the tokens before block number `class_token_at`; None for models without one.
        class_token_at: 0 is before the position embedding, as in ViT.
        pos_embed: Added before the first block; None for models without one. Its vectors for prefix tokens are as many
            as there are then.
        num_classes: Classes of the head, 0 for none.
        in_chans: Image channels.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        dim: int,
        norm: nn.Module,
        head: nn.Module,
        reduction: int,
        class_token: ClassToken | None = None,
        class_token_at: int = 0,
        pos_embed: PositionEmbedding | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.pruned: set[str] = set()  # names of parameters that `prune_intermediate_layers` removed below the norm
        self.num_prefix_tokens = 0 if class_token is None else 1
        self.class_token_at = class_token_at
        self.feature_info = [
            {"num_chs": dim, "reduction": reduction, "module": f"blocks.{i}"} for i in range(len(blocks))
        ]
        self.stem = stem
        self.cls_token = class_token
        self.pos_embed = pos_embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self._set_head(head, num_classes, in_chans)
        if pos_embed is not None:
            self._traits = {"fixed_input_size": False}  # for timm: built for an image size, run at any

    # ------------------------------------------------------------------------------------------------- timm contract

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Parameter groups for layer decay: stem with class token and position embedding, one group a block, head."""
        return {
            "stem": r"^(?:stem|cls_token|pos_embed)\.",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm\.", MATCH_PREV_GROUP)],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block's activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Resize the stored position embedding to images of another size.

        Args:
            img_size: Side of the images, or `(height, width)`.
        """
        if img_size is None or self.pos_embed is None:
            return
        self.pos_embed.set_grid_size(grid_size(img_size, self.feature_info[0]["reduction"]))
        update_model_input_size(self, img_size)  # for timm's saved configuration

    @property
    def default_indices(self) -> list[int]:
        """Blocks whose outputs are returned where none are named: four at equal distances, the last among them."""
        count = len(self.blocks)
        return sorted({max(count * i // 4, 1) - 1 for i in (1, 2, 3, 4)})

    # ------------------------------------------------------------------------------------------------------- forward

    def _prefix_at(self, block: int) -> int:
        """Prefix tokens in the output of a block."""
        return self.num_prefix_tokens if block >= self.class_token_at else 0

    def embed(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Image batch `(B, in_chans, height, width)` to the first block's tokens and their grid."""
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        grid = (x.shape[2], x.shape[3])
        x = x.permute(0, 2, 3, 1).flatten(1, 2)
        if self.cls_token is not None and self.class_token_at == 0:
            x = self.cls_token(x)
        return x if self.pos_embed is None else self.pos_embed(x, grid), grid

    def begin(self) -> Kept:
        """What is kept before the first block: all tokens."""
        return Kept(gathers=is_plain_eager() and not is_watched(self))

    def forward_block(self, i: int, x: torch.Tensor, grid: tuple[int, int], kept: Kept) -> tuple[torch.Tensor, Kept]:
        """Block number `i`, before which the class token may join; its tokens, and what is kept after it."""
        if self.cls_token is not None and i == self.class_token_at > 0:
            x = self.cls_token(x)
        block = self.blocks[i]
        selects = getattr(block, "selects", False)
        args = (x, grid, kept) if selects else (x, grid)
        out = checkpoint(block, *args) if self.grad_checkpointing else block(*args)
        return out if selects else (out, kept)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, in_chans, height, width)` image batch to tokens `(B, P + H * W, C)`, normed, unpooled."""
        return self.forward_kept(x)[0]

    def forward_kept(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`forward_features`, and which tokens are kept to the end, `(B, P + H * W)` bool; None where all are."""
        x, grid = self.embed(x)
        kept = self.begin()
        for i in range(len(self.blocks)):
            x, kept = self.forward_block(i, x, grid, kept)
        return self.norm(self._whole(x, kept)), kept.mask

    def _whole(self, x: torch.Tensor, kept: Kept) -> torch.Tensor:
        """All tokens of a block's output, where there are blocks that drop some."""
        selects = any(getattr(block, "selects", False) for block in self.blocks)
        return whole_tokens(x, kept) if selects else x

    @torch.no_grad()
    def selections(self, x: torch.Tensor) -> list[Selection]:
        """Which tokens and pairs of tokens every block computes; all of them where a block does not select.

        Args:
            x: `(B, in_chans, height, width)`; in evaluation mode what is told is what inference does.
        """
        x, grid = self.embed(x)
        kept, found = Kept(gathers=False), []
        for i, block in enumerate(self.blocks):
            before = self.num_prefix_tokens if i >= self.class_token_at else 0
            if getattr(block, "selects", False):
                found.append(block.selection(x, grid, kept)._replace(grid=grid))
            else:
                ones = torch.ones(x.shape[0], before + grid[0] * grid[1], dtype=torch.bool, device=x.device)
                found.append(Selection(ones, grid=grid))
            x, kept = self.forward_block(i, x, grid, kept)
        return found

    def forward_dense(self, x: torch.Tensor, norms: Sequence[nn.Module]) -> list[torch.Tensor]:
        """Maps after the first `len(norms)` blocks, each through its own output norm."""
        x, grid = self.embed(x)
        kept, outputs = self.begin(), []
        for i, norm in enumerate(norms):
            x, kept = self.forward_block(i, x, grid, kept)
            outputs.append(norm(self._map(i, self._whole(x, kept), grid)))
        return outputs

    def _map(self, block: int, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """`(B, C, H, W)` of a block's output."""
        return tokens[:, self._prefix_at(block) :].unflatten(1, grid).permute(0, 3, 1, 2)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list | tuple[torch.Tensor, list]:
        """Outputs of blocks, in timm's interface.

        Args:
            x: `(B, in_chans, height, width)`.
            indices: Blocks to return: the last n if an int, all if None.
            return_prefix_tokens: Return pairs of a map and the prefix tokens `(B, P, C)`; P is 0 before the class token
                has joined.
            norm: Pass them through the final norm.
            stop_early: Run no block after the last one asked for.
            output_fmt: "NCHW" for maps, "NLC" for tokens `(B, H * W, C)`.
            intermediates_only: Return the list alone.

        Returns:
            The list, or `(final features, list)`; the final features are tokens, with the prefix.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f'output_fmt must be "NCHW" or "NLC", not {output_fmt!r}')
        take, last = feature_take_indices(len(self.blocks), indices)
        x, grid = self.embed(x)
        kept, found = self.begin(), {}
        for i in range(last + 1 if stop_early or intermediates_only else len(self.blocks)):
            x, kept = self.forward_block(i, x, grid, kept)
            if i in take:
                tokens = self._whole(x, kept)
                tokens = self.norm(tokens) if norm else tokens
                prefix = self._prefix_at(i)
                output = self._map(i, tokens, grid) if output_fmt == "NCHW" else tokens[:, prefix:]
                found[i] = (output, tokens[:, :prefix]) if return_prefix_tokens else output
        outputs = [found[i] for i in take]
        return outputs if intermediates_only else (self.norm(self._whole(x, kept)), outputs)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the blocks after the last one in `indices`, and optionally norm and head; returns the indices.

        Without norm and head, what only prefix tokens pass through in the last block that is left goes too.

        Args:
            indices: As in `forward_intermediates`; None for `default_indices`.
            prune_norm: Remove the final norm.
            prune_head: Remove the head; it goes with a class token that no block that is left would see.
        """
        take, last = feature_take_indices(len(self.blocks), self.default_indices if indices is None else indices)
        whole = self.state_dict().keys()
        self.blocks = self.blocks[: last + 1]
        never_joins = self.cls_token is not None and last < self.class_token_at
        if never_joins:
            self.cls_token = None
            self.num_prefix_tokens = self.head.global_pool.num_prefix_tokens = 0
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head or never_joins:
            self.reset_classifier(0, "", reset_other=True)
        if prune_norm and prune_head and hasattr(self.blocks[-1], "prune_prefix"):
            self.blocks[-1].prune_prefix()
        self.pruned |= {key for key in whole - self.state_dict().keys() if key.startswith(("blocks.", "cls_token."))}
        return take


def grid_size(img_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """`(rows, columns)` of patches of an image, the incomplete ones at its right and bottom included."""
    height, width = to_2tuple(img_size)
    return -(-height // patch_size), -(-width // patch_size)


def resize_position_embedding(state_dict: dict[str, torch.Tensor], model: IsotropicModel) -> dict[str, torch.Tensor]:
    """For `Family.convert`: the position embedding of square images of another size, resized to the model's grid."""
    table = state_dict.get("pos_embed.table")
    if table is not None and table.shape != model.pos_embed.table.shape:
        side = round((table.shape[1] - model.pos_embed.num_prefix_tokens) ** 0.5)
        state_dict["pos_embed.table"] = model.pos_embed.resized(table, (side, side), model.pos_embed.grid_size)
    return state_dict


# Of `Family.key_map`: timm's names of a vision transformer, which most authors use, and ours.
TOKEN_KEYS = (
    (r"^cls_token$", "cls_token.token"),
    (r"^pos_embed$", "pos_embed.table"),
    (r"^patch_embed\.proj\.", "stem.conv1."),
)
