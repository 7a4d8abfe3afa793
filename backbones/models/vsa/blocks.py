"""Cells of ViTAEv2 (arXiv 2202.10108, section 3) and the block of Swin, around attention of any kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import DropPath, register_notrace_module
from torch import nn

from backbones.layers.block import MixerBlock
from backbones.layers.conv.basic import ResidualDepthwiseConv
from backbones.layers.conv.multiscale import CrossScaleConv
from backbones.layers.patch import pad_to_multiple
from backbones.layers.pointwise import Mlp
from backbones.ops.chunks import chunkable
from backbones.ops.fusion import fused
from backbones.ops.sizes import crop_map, static_size


@register_notrace_module
class ParallelConv(nn.Module):
    """Three 3x3 convolutions, with BatchNorm and SiLU after the first two: ViTAE's parallel convolutional module.

    Args:
        dims: Channels of the input and of the three results.
        groups: Of all convolutions.
        stride: 1, 2 or 4: that of all three together.

    Maps `(B, dims[0], H, W)` to `(B, dims[3], H / stride, W / stride)`.
    """

    def __init__(self, dims: Sequence[int], groups: int, stride: int = 1, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        strides = {1: (1, 1), 2: (2, 1), 4: (2, 2)}[stride]
        self.conv1 = nn.Conv2d(dims[0], dims[1], 3, strides[0], padding=1, groups=groups, **dd)
        self.norm1 = nn.BatchNorm2d(dims[1], **dd)
        self.act1 = nn.SiLU()
        self.conv2 = nn.Conv2d(dims[1], dims[2], 3, strides[1], padding=1, groups=groups, **dd)
        self.norm2 = nn.BatchNorm2d(dims[2], **dd)
        self.act2 = nn.SiLU()
        self.conv3 = nn.Conv2d(dims[2], dims[3], 3, padding=1, groups=groups, **dd)

    @chunkable(axis=2)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fused(self.conv1, self.norm1, self.act1, self.conv2, self.norm2, self.act2, self.conv3)(x)


@register_notrace_module
class ReductionCell(nn.Module):
    """Downsampling by attention among the results of dilated convolutions, and by convolutions beside it.

    `y = attention(norm(pos(gelu(dilated(x))))) + parallel(x)`, then `y + mlp(norm(y))`; there is no shortcut around the
    attention, and no stochastic depth. Maps that the stride does not divide are zero-padded below and right.

    Args:
        in_dim: Channels in.
        dim: Channels out, D.
        mixer: Attention, from `(B, H, W, len(dilations) * embed_dim)` to `(B, H, W, D)`.
        embed_dim: Channels of each dilated convolution.
        kernel_size, dilations: Of these.
        stride: 2 or 4.
        groups: Of the convolutions beside the attention.
        hidden_dim: Channels of their first two.

    Maps `(B, in_dim, H, W)` to `(B, D, ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        mixer: nn.Module,
        embed_dim: int,
        kernel_size: int,
        dilations: Sequence[int],
        stride: int,
        groups: int,
        hidden_dim: int,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        count = len(dilations)
        self.stride = stride
        self.prm = CrossScaleConv(in_dim, [embed_dim] * count, [kernel_size] * count, stride, dilations, **dd)
        self.act = nn.GELU()
        self.pos_embed = ResidualDepthwiseConv(count * embed_dim, 7, **dd)
        self.norm1 = nn.LayerNorm(count * embed_dim, **dd)
        self.attn = mixer
        self.pcm = ParallelConv((in_dim, hidden_dim, hidden_dim, dim), groups, stride, **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = ((static_size(n) + self.stride - 1) // self.stride for n in x.shape[2:])

        def sized(y: torch.Tensor) -> torch.Tensor:
            """What the convolutions' own arithmetic of sizes gives too, but tells no export for many sizes."""
            return crop_map(y.permute(0, 2, 3, 1), rows, columns)

        x = pad_to_multiple(x, self.stride)
        mixed = sized(self.act(self.prm(x))).permute(0, 3, 1, 2)
        mixed = self.norm1(self.pos_embed(mixed).permute(0, 2, 3, 1))
        x = self.attn(mixed) + sized(self.pcm(x))
        return (x + self.mlp(self.norm2(x))).permute(0, 3, 1, 2)


class NormalCell(MixerBlock):
    """`x + attention(norm(pos(x))) + parallel(x)`, then `x + mlp(norm(x))`.

    Args:
        dim: Channels C.
        mixer: Attention, from `(B, H, W, C)` to `(B, H, W, C)`.
        groups: Of the convolutions beside the attention.
        pos_kernel: Side of the depthwise convolution before it, odd.
        mlp_ratio: Hidden width of the MLP is `int(C * mlp_ratio)`.
        drop_path: Stochastic depth rate of all three branches.

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        groups: int,
        pos_kernel: int = 7,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, mixer, mlp_ratio, norm_eps=1e-6, drop_path=drop_path, **dd)
        self.pos_embed = ResidualDepthwiseConv(dim, pos_kernel, **dd)
        self.pcm = ParallelConv((dim, 4 * dim, dim, dim), groups, **dd)
        self.drop_path3 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.attn(self.norm1(self.pos_embed(x).permute(0, 2, 3, 1)))
        beside = self.pcm(x).permute(0, 2, 3, 1)
        x = x.permute(0, 2, 3, 1) + self.drop_path1(self.ls1(mixed)) + self.drop_path3(beside)
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2)


class SwinVSABlock(MixerBlock):
    """A 7x7 depthwise convolution, attention and MLP, each added to its input; arguments as in `MixerBlock`."""

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, mixer, mlp_ratio, drop_path=drop_path, **dd)
        self.pos_embed = ResidualDepthwiseConv(dim, 7, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.pos_embed(x))
