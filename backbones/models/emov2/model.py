"""EMOv2: mobile networks of one block (Zhang et al., arXiv 2412.06674), and the form of EMO v1 in the same code.

- Every block is an inverted residual: norm, expansion, 5x5 depthwise convolution, projection.
- In stages 3 and 4 the expansion is an attention: the expanded features are values, mixed within windows (close) and
  within dilated windows (remote) by the same queries and keys.
- EMO v1 (Zhang et al., ICCV 2023, arXiv 2301.01146) as the authors' later code has it: remote attention only.

Differences from the paper: the epsilon of all norms is 1e-6, and matters, as layer scales of 1e-6 also act on the
blocks without shortcut; the depthwise convolution has BatchNorm and SiLU in all stages; padding is attended to, so
results depend on the window (7 at 224 pixels, 8 at 256 and 512, 10 in dense models); the README's test command for the
512-pixel file names the model with window 7. Neither the code nor the weights state a licence. Those layer scales also
mean that a new model is of use in evaluation only after some hundred steps, when BatchNorm's statistics have left their
initial 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead, DropPath, LayerScale2d, calculate_drop_path_rates, register_notrace_module
from torch import nn

from backbones.layers.attention.hybrid import HybridWindowAttention
from backbones.layers.conv.basic import ConvNorm
from backbones.layers.norm import LayerNorm2d
from backbones.models.skeleton import HierarchicalModel, Stage
from backbones.ops.chunks import chunkable
from backbones.ops.plain import plain

NORM_EPS = 1e-6


@register_notrace_module
class Stem(nn.Module):
    """3x3 stride-2 convolution and 3x3 depthwise convolution, each with BatchNorm and SiLU, then a 1x1 convolution."""

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_chans, dim, 3, stride=2, padding=1, **dd)
        self.norm1 = nn.BatchNorm2d(dim, eps=NORM_EPS, **dd)
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False, **dd)
        self.norm2 = nn.BatchNorm2d(dim, eps=NORM_EPS, **dd)
        self.conv2 = nn.Conv2d(dim, dim, 1, bias=False, **dd)
        self.act = nn.SiLU()

    @chunkable(axis=2)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        return self.conv2(self.act(self.norm2(self.dwconv(x))))


@plain()
class ConvExpansion(nn.Module):
    """1x1 convolution with bias, then an activation; `(B, C, H, W)` to `(B, M, H, W)`."""

    def __init__(self, dim: int, hidden_dim: int, act_layer: type[nn.Module], device=None, dtype=None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, hidden_dim, 1, device=device, dtype=dtype)
        self.act = act_layer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x))


@plain(row_local=False)
class AttentionExpansion(HybridWindowAttention):
    """The attention on maps: `(B, C, H, W)` to `(B, M, H, W)`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@register_notrace_module
class InvertedResidual(nn.Module):
    """The improved inverted residual mobile block, i2RMB (section 3.3).

    Args:
        in_dim: Channels in.
        dim: Channels out, C.
        hidden_dim: Channels M of the expansion.
        expand: The expansion, from `(B, C_in, H, W)` to `(B, M, H, W)`.
        norm_layer: Norm of the input.
        kernel_size, stride: Of the depthwise convolution.
        has_skip: Add the expansion to the convolution and the input to the result; needs stride 1 and equal channels.
        layer_scale: Initial value of the layer scale.
        drop_path: Stochastic depth rate; only blocks with `has_skip` have any.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        hidden_dim: int,
        expand: nn.Module,
        norm_layer: type[nn.Module],
        kernel_size: int = 5,
        stride: int = 1,
        has_skip: bool = True,
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.has_skip = has_skip
        self.norm = norm_layer(in_dim, eps=NORM_EPS, **dd)
        self.expand = expand
        self.dwconv = ConvNorm(hidden_dim, hidden_dim, kernel_size, stride, groups=hidden_dim, eps=NORM_EPS, **dd)
        self.act = nn.SiLU()
        self.proj = nn.Conv2d(hidden_dim, dim, 1, bias=False, **dd)
        self.ls = LayerScale2d(dim, layer_scale, **dd)
        self.drop_path = DropPath(drop_path) if has_skip and drop_path > 0 else nn.Identity()

    @chunkable(axis=2)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        expanded = self.expand(self.norm(x))
        local = self.act(self.dwconv(expanded))
        y = self.drop_path(self.ls(self.proj(expanded + local if self.has_skip else local)))
        return x + y if self.has_skip else y


class EMOv2(HierarchicalModel):
    """EMOv2 and EMO v1 in their published sizes. The first block of a stage has no shortcut, so never stochastic depth.

    Args:
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        exp_ratios: Width of the expansion over the channels in; that of each stage's first block is twice as large.
        head_dims: Width of the attention's heads, one number a stage; must divide the stage's channels.
        window_size: Side of the attention's windows; no weight depends on it. Published: 7 for 224 pixels, 8 for 256
            and 512, 10 for dense prediction.
        kernel_sizes: Side of the depthwise convolutions, one number a stage.
        close: Add close to remote attention (EMOv2); False for EMO v1.
        layer_scale: Initial value of the layer scales.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.

    Raises:
        ValueError: Channels that the heads do not fit.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (48, 72, 160, 288),
        depths: Sequence[int] = (3, 3, 9, 3),
        exp_ratios: Sequence[float] = (2.0, 3.0, 4.0, 4.0),
        head_dims: Sequence[int] = (16, 24, 32, 32),
        window_size: int | tuple[int, int] = 7,
        kernel_sizes: Sequence[int] = (5, 5, 5, 5),
        close: bool = True,
        layer_scale: float = 1e-6,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}

        def block(stage: int, index: int, rate: float) -> InvertedResidual:
            first, dim = index == 0, dims[stage]
            in_dim = dim if index else dims[stage - 1] if stage else dims[0] // 2
            hidden_dim = int(in_dim * exp_ratios[stage] * (2 if first else 1))
            act_layer, norm_layer = (nn.SiLU, nn.BatchNorm2d) if stage < 2 else (nn.GELU, LayerNorm2d)
            if first or stage < 2:
                expand = ConvExpansion(in_dim, hidden_dim, act_layer, **dd)
            else:
                if dim % head_dims[stage]:
                    raise ValueError(f"dims[{stage}] = {dim} must be a multiple of head_dims[{stage}]")
                heads = dim // head_dims[stage]
                expand = AttentionExpansion(dim, hidden_dim, heads, window_size, close, **dd)
            return InvertedResidual(
                in_dim,
                dim,
                hidden_dim,
                expand,
                norm_layer,
                kernel_sizes[stage],
                stride=2 if first else 1,
                has_skip=not first,
                layer_scale=layer_scale,
                drop_path=rate,
                **dd,
            )

        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        super().__init__(
            stem=Stem(in_chans, dims[0] // 2, **dd),
            stages=[Stage([block(i, j, rate) for j, rate in enumerate(stage)]) for i, stage in enumerate(rates)],
            dims=dims,
            norm=LayerNorm2d(dims[-1], eps=NORM_EPS, **dd),
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )

    def _init_weights(self, module: nn.Module, name: str) -> None:
        # The projections to queries, keys and values are the authors' 1x1 convolutions, at PyTorch's default.
        if not name.startswith("stages."):
            super()._init_weights(module, name)
