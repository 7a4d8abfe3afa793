"""Sparsifiner: sparse instance-dependent attention (Wei et al., CVPR 2023, arXiv 2303.13755), of DeiT and LV-ViT.

- Every query attends to the quarter of the keys that a low-rank estimate of the attention finds largest.
- Optionally, patches are dropped for good by the class token's attention. In inference the others are computed alone.
- What it saves of attention is operations, not time: on CPU, choosing the largest entries of a row takes longer than
  computing the row. Dropped patches save time.

Differences from the paper: outside of the reconstruction of attention, the predictors, which the authors freeze then,
learn what the kept pairs do; freeze them for the authors' training. The logits of LV-ViT have the auxiliary head's
share in training too. The authors' code lowers the number of keys when few tokens are left, for all later batches; here
for the batch at hand. Images may have any size: tables of positions are resized, those of the predictors bilinear.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import calculate_drop_path_rates, get_device_dtype, register_notrace_module
from torch import nn

from backbones.layers.block import TokenBlock
from backbones.layers.head import TokenHead
from backbones.layers.patch import PatchEmbed, pad_to_multiple
from backbones.layers.selection import Kept, Selection, regather, without_dropped
from backbones.layers.tokens import ClassToken, PositionEmbedding
from backbones.models.isotropic import IsotropicModel, grid_size
from backbones.models.sparsifiner.attention import AttentionPredictor, SparseAttention
from backbones.ops.fusion import fused


class SparseBlock(TokenBlock):
    """`TokenBlock` with sparse attention, on the tokens that are kept; both branches are divided by `skip_lam`.

    Maps tokens, grid and what is `Kept` to tokens and what is kept; dropped tokens are zero.
    """

    selects = True

    def __init__(
        self,
        dim: int,
        mixer: SparseAttention,
        mlp_ratio: float,
        norm_eps: float,
        drop_path: float = 0.0,
        skip_lam: float = 1.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(dim, mixer, mlp_ratio, norm_eps, drop_path=drop_path, device=device, dtype=dtype)
        self.skip_lam = skip_lam

    def forward(self, x: torch.Tensor, grid: tuple[int, int], kept: Kept) -> tuple[torch.Tensor, Kept]:
        attended, after = self.attn(self.norm1(x), grid, kept)
        x = regather(x, kept, after) + self.drop_path1(self.ls1(attended)) / self.skip_lam
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x)))) / self.skip_lam
        return without_dropped(x, after), after

    def selection(self, x: torch.Tensor, grid: tuple[int, int], kept: Kept) -> Selection:
        """What the block computes of the tokens `x`."""
        pairs = self.attn.attention(self.norm1(x), grid, kept)[0].pairs
        tokens = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if kept.mask is None else kept.mask
        return Selection(tokens, pairs, kept.scores)


@register_notrace_module
class ConvPatchEmbed(nn.Module):
    """LV-ViT's stem: a 7x7 convolution of stride 2, two of 3x3, all with BatchNorm and ReLU, then patches of that map.

    Args:
        in_chans: Image channels.
        dim: Channels C.
        patch_size: Side of a patch in pixels of the image, even.
        hidden_dim: Channels of the convolutions.

    Maps `(B, in_chans, H, W)` to `(B, C, ceil(H / patch_size), ceil(W / patch_size))`.
    """

    def __init__(self, in_chans: int, dim: int, patch_size: int, hidden_dim: int = 64, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.patch_size = patch_size // 2
        self.conv1 = nn.Conv2d(in_chans, hidden_dim, 7, 2, 3, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(hidden_dim, **dd)
        self.conv2 = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(hidden_dim, **dd)
        self.conv3 = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, bias=False, **dd)
        self.bn3 = nn.BatchNorm2d(hidden_dim, **dd)
        self.act = nn.ReLU()
        self.proj = nn.Conv2d(hidden_dim, dim, self.patch_size, stride=self.patch_size, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = fused(self.conv1, self.bn1, self.act)(x)
        x = fused(self.conv2, self.bn2, self.act)(x)
        x = fused(self.conv3, self.bn3, self.act)(x)
        return self.proj(pad_to_multiple(x, self.patch_size))


class PatchVoteHead(TokenHead):
    """`TokenHead` and a classifier of every patch; half the largest of its logits over the patches is added.

    (Token labelling, Jiang et al., arXiv 2104.10858.) Without pooling, and without classes, there are no votes.
    """

    def __init__(self, in_features: int, num_classes: int, pool_type: str = "token", device=None, dtype=None, **kwargs):
        dd = {"device": device, "dtype": dtype}
        super().__init__(in_features, num_classes, pool_type, **kwargs, **dd)
        self._set_patch_classifier(num_classes, pool_type, **dd)

    def _set_patch_classifier(self, num_classes: int, pool_type: str, **dd) -> None:
        votes = num_classes > 0 and pool_type != ""
        self.aux_fc = nn.Linear(self.num_features, num_classes, **dd) if votes else None

    def reset(self, num_classes: int, pool_type: str | None = None, device=None, dtype=None, **kwargs) -> None:
        """See `TokenHead.reset`; both classifiers are replaced."""
        dd = get_device_dtype(self, device=device, dtype=dtype)
        super().reset(num_classes, pool_type, **kwargs, **dd)
        self._set_patch_classifier(num_classes, self.global_pool.pool_type, **dd)
        self.train(self.training)

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        out = super().forward(x, pre_logits)
        if pre_logits or self.aux_fc is None:
            return out
        patches = self.drop(x[:, self.global_pool.num_prefix_tokens :])
        return out + 0.5 * self.aux_fc(patches).amax(1)


class Sparsifiner(IsotropicModel):
    """DeiT, or LV-ViT, with sparse attention.

    Takes images of any size: incomplete patches are zero-padded, and the tables of positions are resized.

    Args:
        img_size: Side of the images, or `(height, width)`, that tables of positions are stored for.
        patch_size: Side of a patch, in pixels.
        dim: Channels.
        depth: Blocks.
        num_heads: Heads.
        mlp_ratio: Hidden width of the MLPs over the channels.
        qkv_bias: Bias of the queries, keys and values.
        norm_eps: Epsilon of the LayerNorms.
        skip_lam: What every branch is divided by.
        conv_stem: LV-ViT's stem.
        aux_head: LV-ViT's classifier of patches, see `PatchVoteHead`.
        num_basis, predictor_dim: Of the predictors, `num_basis` and `dim` of `AttentionPredictor`; the authors'
            `reduce_n_factor` r makes `floor(tokens / r)`, `reduce_c_factor` r `head channels / r`.
        share_inout_proj, attn_keep_rate, attn_score_threshold, basis_threshold, basis_coef_topk, basis_coef_threshold:
            Of the predictors, see `AttentionPredictor`.
        token_pruning_loc: Blocks, from 0, whose attention decides on the patches that go on.
        token_keep_rate: Share r of the patches that is left after one of blocks 3 to 5; `r ** 2` of 6 to 8, and so on.
        prune_attn_matrix_row: See `SparseAttention.prune_rows`.
        reconstruct: In training attend to all, and return `(logits, loss)`, the predictors' reconstruction loss.
        recon_weight: Weight of that loss: of squared differences, summed over a batch, of the mean over blocks.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `IsotropicModel`.

    Raises:
        ValueError: Options that do not go together.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        skip_lam: float = 1.0,
        conv_stem: bool = False,
        aux_head: bool = False,
        num_basis: int = 32,
        predictor_dim: int = 32,
        share_inout_proj: bool = False,
        attn_keep_rate: float = 0.25,
        attn_score_threshold: float = 0.0,
        basis_threshold: float = 0.02,
        basis_coef_topk: int = 8,
        basis_coef_threshold: float = 0.0,
        token_pruning_loc: Sequence[int] = (),
        token_keep_rate: float = 1.0,
        prune_attn_matrix_row: bool = False,
        reconstruct: bool = False,
        recon_weight: float = 0.01,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        if not 0 < token_keep_rate <= 1:
            raise ValueError(f"token_keep_rate must be above 0 and at most 1, not {token_keep_rate}")
        size = grid_size(img_size, patch_size)
        blocks = []
        for i, rate in enumerate(calculate_drop_path_rates(drop_path_rate, depth)):
            predictor = AttentionPredictor(
                dim // num_heads,
                size,
                predictor_dim,
                num_basis,
                attn_keep_rate,
                attn_score_threshold,
                basis_threshold,
                basis_coef_topk,
                basis_coef_threshold,
                share_inout_proj,
                **dd,
            )
            keep = token_keep_rate ** (i // 3) if i in token_pruning_loc else None
            mixer = SparseAttention(dim, num_heads, predictor, qkv_bias, keep, prune_attn_matrix_row, **dd)
            mixer.reconstructs = reconstruct
            blocks.append(SparseBlock(dim, mixer, mlp_ratio, norm_eps, rate, skip_lam, **dd))
        head = PatchVoteHead if aux_head else TokenHead
        super().__init__(
            stem=(ConvPatchEmbed if conv_stem else PatchEmbed)(in_chans, dim, patch_size, **dd),
            class_token=ClassToken(dim, **dd),
            pos_embed=PositionEmbedding(dim, size, num_prefix_tokens=1, **dd),
            blocks=blocks,
            dim=dim,
            reduction=patch_size,
            norm=nn.LayerNorm(dim, eps=norm_eps, **dd),
            head=head(dim, num_classes, global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )
        self.reconstruct = reconstruct
        self.recon_weight = recon_weight

    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Resize the stored tables of positions to images of another size; see `IsotropicModel`."""
        super().set_input_size(img_size)
        for block in self.blocks if img_size is not None else ():
            block.attn.mask_predictor.set_grid_size(self.pos_embed.grid_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if not (self.reconstruct and self.training):
            return super().forward(x)
        x, grid = self.embed(x)
        kept = self.begin()
        for i in range(len(self.blocks)):
            x, kept = self.forward_block(i, x, grid, kept)
        return self.forward_head(self.norm(x)), self.recon_weight * kept.loss / len(self.blocks)
