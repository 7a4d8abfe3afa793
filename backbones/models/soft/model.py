"""SOFT: softmax-free transformers (Lu et al., NeurIPS 2021, arXiv 2110.11945; SOFT++, IJCV 2024, arXiv 2207.03341).

- In stages 1 to 3 weights of attention are a Gaussian kernel of queries that serve as keys, without softmax, and are
  approximated through landmarks. SOFT++ scales the inverse of the landmarks' kernel by its row sums.
- Blocks of these stages normalise after adding. The last stage is a plain vision transformer with a class token.
- Every stage adds a position table to its input.

Any image size: position tables are resized (bilinear), as in the authors' code, and landmarks cover whole cells of
8, 4 and 2 positions.

Differences from the paper: a depthwise convolution of the values is added to the attention. Stages 1 to 3 have plain
dropout, at the rate of stochastic depth, in its place. What SOFT++ computes of an image does not depend on the others
of its batch (see `plain_inverse`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates, get_device_dtype
from torch import nn

from backbones.layers.attention.global_attention import TokenAttention
from backbones.layers.attention.softmax_free import SoftmaxFreeAttention
from backbones.layers.block import TokenBlock
from backbones.layers.head import TokenHead
from backbones.layers.pointwise import GELUTanh, Mlp
from backbones.layers.tokens import ClassToken, MapPositionEmbedding, PositionEmbedding
from backbones.models.isotropic import grid_size
from backbones.models.skeleton import HierarchicalModel, Stage
from backbones.ops.fusion import fused

NORM_EPS = 1e-6  # of the last stage and after it; elsewhere 1e-5
RATIOS, KERNEL_SIZES = (8, 4, 2), (9, 5, 3)  # of landmarks and the values' convolutions in stages 1 to 3
STEM_DIM = 32


class Embedding(nn.Module):
    """3x3 convolutions with BatchNorm and ReLU, and a position table.

    Args:
        dims: Channels of the input and of every convolution.
        strides: Of every convolution.
        map_size: `(H, W)` of the position table; None for none.

    Maps `(B, dims[0], H, W)` to `(B, dims[-1], H', W')`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        map_size: tuple[int, int] | None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.count = len(strides)
        for i, stride in enumerate(strides):
            self.add_module(f"conv{i + 1}", nn.Conv2d(dims[i], dims[i + 1], 3, stride=stride, padding=1, **dd))
            self.add_module(f"norm{i + 1}", nn.BatchNorm2d(dims[i + 1], **dd))
        self.act = nn.ReLU()
        self.pos_embed: nn.Module = nn.Identity()
        if map_size is not None:
            self.pos_embed = MapPositionEmbedding(dims[-1], map_size, interpolation="bilinear", decayed=True, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(1, self.count + 1):
            x = fused(getattr(self, f"conv{i}"), getattr(self, f"norm{i}"), self.act)(x)
        return self.pos_embed(x)


class SOFTBlock(nn.Module):
    """`norm(x + attention(x))`, then `norm(x + mlp(x))`, with dropout of single values on both branches.

    Args:
        dim: Channels C.
        mixer: Module from `(B, H, W, C)` to `(B, H, W, C)`.
        mlp_ratio: Hidden width of the MLP is `int(C * mlp_ratio)`.
        drop: Dropout of both branches.

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(
        self, dim: int, mixer: nn.Module, mlp_ratio: float = 4.0, drop: float = 0.0, device=None, dtype=None
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.attn = mixer
        self.drop1 = nn.Dropout(drop)
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=GELUTanh, **dd)
        self.drop2 = nn.Dropout(drop)
        self.norm2 = nn.LayerNorm(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        x = self.norm1(x + self.drop1(self.attn(x)))
        x = self.norm2(x + self.drop2(self.mlp(x)))
        return x.permute(0, 3, 1, 2)


class ClassTokenStage(Stage):
    """`downsample`, a class token in front of the map's tokens, a position table, then `blocks` of tokens and grid.

    Maps `(B, C_in, H, W)` to `(B, C, H', W')`, and gives the tokens `(B, 1 + H' * W', C)` as its state.
    """

    gives_state = True

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        downsample: nn.Module,
        dim: int,
        map_size: tuple[int, int],
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(blocks, downsample)
        dd = {"device": device, "dtype": dtype}
        self.cls_token = ClassToken(dim, **dd)
        self.pos_embed = PositionEmbedding(dim, map_size, 1, "bilinear", decayed=True, **dd)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.downsample(x)
        grid = (x.shape[2], x.shape[3])
        tokens = self.cls_token(x.permute(0, 2, 3, 1).flatten(1, 2))
        tokens = self.run_blocks(self.pos_embed(tokens, grid), grid)
        return map_of(tokens, grid), tokens


def map_of(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Tokens `(B, 1 + H * W, C)` of a grid `(H, W)` to the map `(B, C, H, W)`, without the class token."""
    return tokens[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)


class SOFT(HierarchicalModel):
    """Softmax-free transformer.

    The features that the head takes are the last stage's tokens `(B, 1 + H * W, C)`, the class token first. Outputs of
    stages are maps without it.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling of the tokens before the classifier, see `TokenPool`.
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        num_heads: Heads of the four stages.
        inverse: How the landmarks' kernel is inverted: "ridge" (SOFT), "normalized" (SOFT++) or "plain" (SOFT's weights
            of 2021), see `SoftmaxFreeAttention`.
        mlp_ratio: Hidden width of the MLPs over the channels.
        img_size: Side of the images that position tables are stored for, or `(height, width)`; any size is taken.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Dropout of the residual branches of the last block, where it drops whole branches; rises
            linearly from 0. Before the last stage it drops single values.

    Raises:
        ValueError: Heads that do not divide the channels, or an unknown inverse.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (1, 2, 3, 2),
        num_heads: Sequence[int] = (2, 4, 10, 16),
        inverse: str = "ridge",
        mlp_ratio: float = 4.0,
        img_size: int | tuple[int, int] = 224,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        self.inverse = inverse
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        maps = [grid_size(img_size, 4 * 2**i) for i in range(4)]
        stages = []
        for i, (ratio, kernel_size) in enumerate(zip(RATIOS, KERNEL_SIZES)):
            blocks = [
                SOFTBlock(
                    dims[i],
                    SoftmaxFreeAttention(dims[i], num_heads[i], ratio, kernel_size, inverse, **dd),
                    mlp_ratio,
                    rate,
                    **dd,
                )
                for rate in rates[i]
            ]
            stages.append(Stage(blocks, Embedding(dims[i - 1 : i + 1], (2,), maps[i], **dd) if i else None))
        blocks = [
            TokenBlock(dims[3], TokenAttention(dims[3], num_heads[3], **dd), mlp_ratio, NORM_EPS, drop_path=rate, **dd)
            for rate in rates[3]
        ]
        stages.append(ClassTokenStage(blocks, Embedding(dims[2:], (2,), None, **dd), dims[3], maps[3], **dd))
        super().__init__(
            stem=Embedding((in_chans, STEM_DIM, STEM_DIM, dims[0]), (2, 1, 2), maps[0], **dd),
            stages=stages,
            dims=dims,
            norm=nn.LayerNorm(dims[3], eps=NORM_EPS, **dd),
            head=TokenHead(dims[3], num_classes, global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )
        self.num_prefix_tokens = 1

    def _init_weights(self, module: nn.Module, name: str) -> None:
        # The authors' SOFT++ makes these blocks anew after the initialisation: they start as torch's do.
        if not (
            self.inverse == "normalized" and name.startswith(("stages.0.blocks", "stages.1.blocks", "stages.2.blocks"))
        ):
            super()._init_weights(module, name)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """As in `HierarchicalModel`; class token and position table are with the layers before the blocks."""
        matcher = super().group_matcher(coarse)
        if not coarse:
            matcher["blocks"].insert(0, (r"^stages\.(\d+)\.(?:cls_token|pos_embed)", (0,)))
        return matcher

    def _truncate(self, count: int) -> None:
        """Without the last stage there is no class token, and features are maps."""
        super()._truncate(count)
        self.num_prefix_tokens = 0
        dim, drop_rate = self.feature_info[count - 1]["num_chs"], self.head.drop.p
        self.head = ClassifierHead(dim, 0, drop_rate=drop_rate, **get_device_dtype(self)).train(self.training)

    def _norm_last(self, x: torch.Tensor, state: torch.Tensor | None = None) -> torch.Tensor:
        return super()._norm_last(x if state is None else state)

    def _final_map(self, final: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return map_of(final, x.shape[2:]) if self.num_prefix_tokens else final
