"""The pre-norm residual blocks around any channels-last token mixer."""

from __future__ import annotations

import torch
from timm.layers import DropPath, LayerScale
from torch import nn

from backbones.layers.conv.basic import ConvMlp, ResidualDepthwiseConv
from backbones.layers.norm import DecayedLayerScale2d, LayerNorm2d
from backbones.layers.pointwise import Mlp


class MixerBlock(nn.Module):
    """`x + mixer(norm(x))`, then `x + mlp(norm(x))`, with stochastic depth and optional layer scale on both branches.

    The form of ViT, Swin, NAT and MaxViT's attention halves (MetaFormer, arXiv 2111.11418, section 3.1).

    Args:
        dim: Channels C.
        mixer: Module from `(B, H, W, C)` to `(B, H, W, C)`. One whose attribute `takes_shortcut` is true is called with
            the block's input beside the normed one.
        mlp_ratio: Hidden width of the MLP, whose activation is GELU, is `int(C * mlp_ratio)`.
        norm_eps: Epsilon of both LayerNorms.
        layer_scale: Initial value of the layer scale; None for none.
        drop_path: Stochastic depth rate of both branches.
        mlp: Module from `(B, H, W, C)` to `(B, H, W, C)` in place of the MLP.

    Maps `(B, C, H, W)` to `(B, C, H, W)`; inside, everything runs on the channels-last view.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-5,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        mlp: nn.Module | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps, **dd)
        self.attn = mixer
        self.takes_shortcut = getattr(mixer, "takes_shortcut", False)
        self.ls1 = LayerScale(dim, layer_scale, **dd) if layer_scale is not None else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), **dd) if mlp is None else mlp
        self.ls2 = LayerScale(dim, layer_scale, **dd) if layer_scale is not None else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        y = self.norm1(x)
        y = self.attn(y, x) if self.takes_shortcut else self.attn(y)
        x = x + self.drop_path1(self.ls1(y))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2)


class TokenBlock(MixerBlock):
    """The same block on tokens: `x` is `(B, P + H * W, C)`, P prefix tokens before those of a grid `(H, W)`.

    The mixer gets the grid too: it maps `(B, P + H * W, C)` and `(H, W)` to `(B, P + H * W, C)`. The MLP does not.
    """

    def prune_prefix(self) -> None:
        """See `IsotropicModel.prune_intermediate_layers`."""
        if hasattr(self.attn, "prune_prefix"):
            self.attn.prune_prefix()

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), grid)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class GridBlock(MixerBlock):
    """The same block on the tokens `(B, H * W, C)` of a grid `(H, W)`, around a mixer of maps."""

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        mixed = self.attn(self.norm1(x).unflatten(1, grid)).flatten(1, 2)
        x = x + self.drop_path1(self.ls1(mixed))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class DepthwiseMixerBlock(nn.Module):
    """Depthwise convolution, mixer, and MLP with a depthwise convolution, each added to its input.

    The form of CMT (arXiv 2107.06263, section 3.1), and of STViT and RAVLT. The convolutions take the place of position
    embeddings.

    Args:
        dim: Channels C.
        mixer: Module from `(B, H, W, C)` to `(B, H, W, C)`.
        mlp_ratio: Hidden width of the MLP is `int(C * mlp_ratio)`.
        layer_scale: Initial value of the layer scale of mixer and MLP, which is decayed; None for none.
        drop_path: Stochastic depth rate of mixer and MLP.
        mlp_norm: Norm before the MLP: "layer", as before the mixer, or "batch".

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        mlp_norm: str = "layer",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}

        def scale() -> nn.Module:
            return nn.Identity() if layer_scale is None else DecayedLayerScale2d(dim, layer_scale, **dd)

        self.pos_embed = ResidualDepthwiseConv(dim, **dd)
        self.norm1 = LayerNorm2d(dim, eps=1e-6, **dd)
        self.attn = mixer
        self.ls1 = scale()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.BatchNorm2d(dim, **dd) if mlp_norm == "batch" else LayerNorm2d(dim, eps=1e-6, **dd)
        self.mlp = ConvMlp(dim, int(dim * mlp_ratio), grn=False, **dd)
        self.ls2 = scale()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pos_embed(x)
        mixed = self.attn(self.norm1(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = x + self.drop_path1(self.ls1(mixed))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
