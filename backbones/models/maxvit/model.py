"""MaxViT: multi-axis vision transformer (Tu et al., ECCV 2022, arXiv 2204.01697).

- One block everywhere: MBConv with squeeze-excite, attention within local windows, attention over a sparse global
  grid, each attention followed by an MLP. The grid lets every stage mix globally at linear cost.
- A convolutional stem and four stages; the first MBConv of a stage downsamples.
- BatchNorm and "same" padding as in TensorFlow, GELU in its tanh form.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from timm.layers import NormMlpClassifierHead, calculate_drop_path_rates, register_notrace_module, to_2tuple
from torch import nn

from backbones._compat import update_model_input_size
from backbones.layers.attention.relpos import RelativePositionBias2d
from backbones.layers.attention.window import GridAttention, WindowAttention
from backbones.layers.block import MixerBlock
from backbones.layers.conv.mbconv import Conv2dSame, MBConv
from backbones.layers.norm import LayerNorm2d
from backbones.layers.pointwise import GELUTanh, Mlp
from backbones.models.skeleton import HierarchicalModel, Stage
from backbones.ops.chunks import chunkable
from backbones.ops.fusion import fused

HEAD_DIM = 32
DEFAULT_WINDOW = 7
WINDOW_STRIDE = 32  # pixels of the image for one position of the published windows: 224 / 7, 384 / 12, 512 / 16
BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}


@register_notrace_module
class Stem(nn.Module):
    """3x3 stride-2 convolution, BatchNorm, GELU, 3x3 convolution; `(B, C, H, W)` to `(B, D, ceil(H/2), ceil(W/2))`."""

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = Conv2dSame(in_chans, dim, 3, stride=2, **dd)
        self.norm1 = nn.BatchNorm2d(dim, **BATCH_NORM, **dd)
        self.act = GELUTanh()
        self.conv2 = Conv2dSame(dim, dim, 3, **dd)

    @chunkable(axis=2)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(fused(self.conv1, self.norm1, self.act)(x))


class AttentionBlock(MixerBlock):
    """Pre-norm residual attention, then MLP with tanh-GELU; `(B, C, H, W)` to `(B, C, H, W)`."""

    def __init__(
        self, dim: int, mixer: nn.Module, mlp_ratio: float = 4.0, drop_path: float = 0.0, device=None, dtype=None
    ) -> None:
        super().__init__(dim, mixer, mlp_ratio, drop_path=drop_path, device=device, dtype=dtype)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), GELUTanh, device=device, dtype=dtype)


class MaxViTBlock(nn.Module):
    """MBConv, window attention, grid attention; `(B, C_in, H, W)` to `(B, C, ceil(H / stride), ceil(W / stride))`."""

    def __init__(
        self,
        in_dim: int,
        dim: int,
        stride: int,
        window_size: tuple[int, int],
        mlp_ratio: float = 4.0,
        expand_ratio: float = 4.0,
        se_ratio: float = 0.25,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        heads = dim // HEAD_DIM
        self.conv = MBConv(in_dim, dim, stride, expand_ratio, se_ratio, drop_path=drop_path, **dd)
        window, grid = WindowAttention(dim, heads, window_size, **dd), GridAttention(dim, heads, window_size, **dd)
        self.attn_block = AttentionBlock(dim, window, mlp_ratio, drop_path, **dd)
        self.attn_grid = AttentionBlock(dim, grid, mlp_ratio, drop_path, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn_grid(self.attn_block(self.conv(x)))


class MaxViT(HierarchicalModel):
    """Multi-axis vision transformer.

    Takes images of any size. Where windows or grids do not divide a map, they are padded and the padding masked.

    Args:
        stem_width: Channels of the stem.
        dims: Channels of the four stages; multiples of 32, the width of a head.
        depths: Blocks of the four stages.
        window_size: Side of windows and grids, or `(rows, columns)`; by default 7, or what `img_size` asks for.
        img_size: Side of the images, or `(height, width)`, to derive windows from as the authors do: img_size // 32.
        mlp_ratio: Hidden width of the MLPs over the channels.
        expand_ratio: Inner width of MBConv over its output channels.
        se_ratio: Hidden width of squeeze-excite over MBConv's output channels.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.

    Raises:
        ValueError: Widths that are no multiples of 32, or an image smaller than 32 pixels.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        stem_width: int = 64,
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 5, 2),
        window_size: int | tuple[int, int] | None = None,
        img_size: int | tuple[int, int] | None = None,
        mlp_ratio: float = 4.0,
        expand_ratio: float = 4.0,
        se_ratio: float = 0.25,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        if any(dim % HEAD_DIM for dim in dims):
            raise ValueError(f"dims {tuple(dims)} must be multiples of {HEAD_DIM}, the width of an attention head")
        dd = {"device": device, "dtype": dtype}
        window = _window(window_size, img_size)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages, in_dim = [], stem_width
        for dim, stage_rates in zip(dims, rates):
            blocks = []
            for i, rate in enumerate(stage_rates):
                ratios = {"mlp_ratio": mlp_ratio, "expand_ratio": expand_ratio, "se_ratio": se_ratio}
                blocks.append(MaxViTBlock(in_dim, dim, 1 if i else 2, window, **ratios, drop_path=rate, **dd))
                in_dim = dim
            stages.append(Stage(blocks))
        super().__init__(
            stem=Stem(in_chans, stem_width, **dd),
            stages=stages,
            dims=dims,
            head=NormMlpClassifierHead(
                dims[-1],
                num_classes,
                hidden_size=dims[-1],
                pool_type=global_pool,
                drop_rate=drop_rate,
                norm_layer=partial(LayerNorm2d, eps=1e-5),
                act_layer="tanh",
                **dd,
            ),
            num_classes=num_classes,
            in_chans=in_chans,
        )
        self.window_size = window
        self._traits = {"fixed_input_size": False}  # for timm: built for an image size, run at any

    def _init_weights(self, module: nn.Module, name: str) -> None:
        """Kernels, linears and bias tables normal with std 0.02, not truncated; biases 0."""
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, RelativePositionBias2d):
            nn.init.normal_(module.relative_position_bias_table, std=0.02)

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, window_size: int | tuple[int, int] | None = None
    ) -> None:
        """Change windows and grids, and resize all bias tables to them.

        Args:
            img_size: Side of the images, or `(height, width)`; windows become img_size // 32.
            window_size: Windows to use instead.
        """
        if window_size is None and img_size is None:
            return
        self.window_size = _window(window_size, img_size)
        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.set_window_size(self.window_size)
        update_model_input_size(self, img_size, window_size=self.window_size)  # for timm's saved configuration


def _window(window_size: int | tuple[int, int] | None, img_size: int | tuple[int, int] | None) -> tuple[int, int]:
    if window_size is None and img_size is not None:
        height, width = to_2tuple(img_size)
        window_size = (height // WINDOW_STRIDE, width // WINDOW_STRIDE)
    window = to_2tuple(DEFAULT_WINDOW if window_size is None else window_size)
    if min(window) < 1:
        raise ValueError(f"img_size {img_size} and window_size {window_size} give windows of {window}; use 32 or more")
    return window
