"""Hierarchical SpectFormer (Patro et al., arXiv 2304.06446): frequency and attention.

- In stages 1 and 2 a learned filter in the Fourier domain mixes the whole map; stages 3 and 4 have softmax attention.
- The feed-forwards have a depthwise convolution, the only encoding of positions beside the filters.
- A class token, made of the last map's mean, attends to the map once (from Wave-ViT's code, arXiv 2207.04978).

Any image size: filters are stored for one size and resized to others, bicubic, which the authors' code does for its
vanilla models only; its hierarchical ones take 224 pixels alone.

Differences from the paper: it counts the auxiliary head (`aux_head`), of tokens, that the authors' recipe trains and
evaluates with; the authors publish no weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import calculate_drop_path_rates, to_2tuple
from torch import nn

from backbones._compat import update_model_input_size
from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.block import MixerBlock
from backbones.layers.conv.basic import ConvNorm, DepthwiseMlp
from backbones.layers.init import init_fan_out
from backbones.layers.norm import LayerNorm2d
from backbones.layers.spectral import SpectralGating
from backbones.models.skeleton import HierarchicalModel, Stage
from backbones.models.spectformer.head import ClassAttentionHead
from backbones.ops.fusion import fused

NORM_EPS = 1e-6  # of blocks, stages and head; norms of the embeddings have 1e-5
HEAD_DIM = 32


class Stem(nn.Module):
    """7x7 stride-2 and two 3x3 convolutions with BatchNorm and ReLU, 3x3 stride-2 convolution, LayerNorm; stride 4."""

    def __init__(self, in_chans: int, hidden_dim: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = ConvNorm(in_chans, hidden_dim, 7, stride=2, **dd)
        self.conv2 = ConvNorm(hidden_dim, hidden_dim, 3, **dd)
        self.conv3 = ConvNorm(hidden_dim, hidden_dim, 3, **dd)
        self.act = nn.ReLU()
        self.proj = nn.Conv2d(hidden_dim, dim, 3, stride=2, padding=1, **dd)
        self.norm = LayerNorm2d(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = fused(conv.conv, conv.norm, self.act)(x)
        return self.norm(self.proj(x))


class Downsample(nn.Module):
    """3x3 stride-2 convolution, LayerNorm."""

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, 3, stride=2, padding=1, device=device, dtype=dtype)
        self.norm = LayerNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(x))


class SpectFormer(HierarchicalModel):
    """Hierarchical SpectFormer.

    Takes images of any size: filters are resized to their maps.

    Args:
        img_size: Side of the images, or `(height, width)`, that the filters are stored for.
        stem_dim: Channels inside of the stem.
        dims: Channels of the four stages; multiples of 32, the width of a head.
        depths: Blocks of the four stages.
        mlp_ratios: Hidden width of the MLPs over the channels, stage by stage.
        spectral_stages: The first stages that have spectral gating.
        aux_head: Add the authors' second classifier, of every token: half of the largest of its logits of each class
            is added to the others; in training mode the model returns `(logits, aux_logits)`, the latter the largest.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`; what
            `global_pool` gives is the class token.

    Raises:
        ValueError: Widths that are no multiples of 32.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] = 224,
        stem_dim: int = 32,
        dims: Sequence[int] = (64, 128, 320, 448),
        depths: Sequence[int] = (3, 4, 6, 3),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        spectral_stages: int = 2,
        aux_head: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        if any(dim % HEAD_DIM for dim in dims):
            raise ValueError(f"dims {tuple(dims)} must be multiples of {HEAD_DIM}, the width of an attention head")
        dd = {"device": device, "dtype": dtype}

        def mixer(i: int) -> nn.Module:
            if i < spectral_stages:
                return SpectralGating(dims[i], _map_size(img_size, i), **dd)
            return GlobalAttention2d(dims[i], dims[i] // HEAD_DIM, qkv_bias=True, **dd)

        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            blocks = [
                MixerBlock(
                    dims[i],
                    mixer(i),
                    norm_eps=NORM_EPS,
                    drop_path=rate,
                    mlp=DepthwiseMlp(dims[i], int(dims[i] * mlp_ratios[i]), residual=False, **dd),
                    **dd,
                )
                for rate in rates
            ]
            norm = LayerNorm2d(dims[i], eps=NORM_EPS, **dd) if i < len(dims) - 1 else None
            stages.append(Stage(blocks, Downsample(dims[i - 1], dims[i], **dd) if i else None, norm))
        super().__init__(
            stem=Stem(in_chans, stem_dim, dims[0], **dd),
            stages=stages,
            dims=dims,
            head=ClassAttentionHead(
                dims[-1], num_classes, dims[-1] // HEAD_DIM, global_pool, drop_rate, NORM_EPS, aux_head, **dd
            ),
            num_classes=num_classes,
            in_chans=in_chans,
        )
        self._traits = {"fixed_input_size": False}  # for timm: built for an image size, run at any

    def _init_weights(self, module: nn.Module, name: str) -> None:
        if isinstance(module, nn.Conv2d):
            init_fan_out(module)
        else:
            super()._init_weights(module, name)

    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Resize the stored filters to images of another size.

        Args:
            img_size: Side of the images, or `(height, width)`.
        """
        if img_size is None:
            return
        for i, stage in enumerate(self.stages):
            for module in stage.modules():
                if isinstance(module, SpectralGating):
                    module.set_map_size(_map_size(img_size, i))
        update_model_input_size(self, img_size)  # for timm's saved configuration


def _map_size(img_size: int | tuple[int, int], stage: int) -> tuple[int, int]:
    """Rows and columns of a stage's map."""
    height, width = to_2tuple(img_size)
    stride = 4 * 2**stage
    return -(-height // stride), -(-width // stride)
