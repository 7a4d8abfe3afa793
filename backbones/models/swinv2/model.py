"""Swin Transformer V2 (Liu et al., CVPR 2022, arXiv 2111.09883).

- LayerNorm stands at the end of each residual branch, and starts at zero, so that activations do not grow with depth.
- Logits of attention are cosines with a learned scale.
- The position bias is a function of log-spaced offsets, so that weights transfer to other windows.

Differences from the paper: offsets are scaled to the range -8 to 8 before their logarithm, to the base 8, is taken; the
additional norms of the model with 3 billion parameters, whose weights are not published, are not there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones._compat import update_model_input_size
from backbones.layers.attention.window import CosineWindowAttention
from backbones.layers.block import MixerBlock
from backbones.models.swin import SwinTransformer, windows_of


@register_notrace_module
class SwinV2Block(MixerBlock):
    """`x + norm(attention(x))`, then `x + norm(mlp(x))` (section 3.1); `(B, C, H, W)` to `(B, C, H, W)`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        x = x + self.drop_path1(self.ls1(self.norm1(self.attn(x))))
        x = x + self.drop_path2(self.ls2(self.norm2(self.mlp(x))))
        return x.permute(0, 3, 1, 2)


class SwinV2(SwinTransformer):
    """Swin Transformer V2.

    Takes images of any size. Windows and shifts are those of `img_size`; where they do not divide a map of another
    image, it is padded as in timm, and padding is attended to. `set_input_size` derives them anew.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        dim: Channels of the first stage; each later stage has twice those before it.
        depths: Blocks of the four stages.
        num_heads: Heads of the four stages.
        window_size: Side of the windows; where a map of `img_size` is smaller, its shorter side.
        pretrained_window_sizes: Windows of the stages that the weights were trained with before, where those differ;
            0 for the windows in use.
        img_size: Side of the images, or `(height, width)`, to derive windows from.
        mlp_ratio: Hidden width of the MLPs over the channels.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.

    Raises:
        ValueError: Heads that do not divide the channels, or an image smaller than 32 pixels.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 8,
        pretrained_window_sizes: Sequence[int] = (0, 0, 0, 0),
        img_size: int | tuple[int, int] = 256,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        windows = windows_of(img_size, window_size, len(depths))

        def block(i: int, j: int, drop_path: float) -> nn.Module:
            width, (window, shift) = dim * 2**i, windows[i]
            attention = CosineWindowAttention(
                width,
                num_heads[i],
                window,
                shift if j % 2 else 0,
                trained_window=pretrained_window_sizes[i] or None,
                **dd,
            )
            return SwinV2Block(width, attention, mlp_ratio, drop_path=drop_path, **dd)

        super().__init__(
            block,
            in_chans,
            num_classes,
            global_pool,
            dim,
            depths,
            norm_last=True,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            **dd,
        )
        self.img_size, self.window_size = img_size, window_size
        self._traits = {"fixed_input_size": False}  # for timm: built for an image size, run at any

    def _init_weights(self, module: nn.Module, name: str) -> None:
        """Linears with truncated normal 0.02; the LayerNorms of the blocks 0."""
        if name.endswith((".norm1", ".norm2")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        else:
            super()._init_weights(module, name)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """As for SimMIM's fine-tuning: patch merging belongs to the last block before it, the norm to the head."""
        if coarse:
            return super().group_matcher(coarse)
        merging = [
            (rf"^stages\.{i}\.downsample", (i - 1, len(self.stages[i - 1].blocks) - 1))
            for i in range(1, len(self.stages))
        ]
        return {"stem": r"^stem", "blocks": [*merging, (r"^stages\.(\d+)\.blocks\.(\d+)", None)]}

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, window_size: int | tuple[int, int] | None = None
    ) -> None:
        """Derive windows and shifts from another size of images or another window.

        Args:
            img_size: Side of the images, or `(height, width)`; unchanged if None.
            window_size: Side of the windows; unchanged if None.
        """
        self.img_size = self.img_size if img_size is None else img_size
        self.window_size = self.window_size if window_size is None else window_size
        for stage, (window, shift) in zip(self.stages, windows_of(self.img_size, self.window_size, len(self.stages))):
            for j, block in enumerate(stage.blocks):
                block.attn.set_window_size(window, shift if j % 2 else 0)
        update_model_input_size(self, img_size, window_size=self.window_size)  # for timm's saved configuration
