"""VAN: visual attention network (Guo et al., Computational Visual Media 2023, arXiv 2202.09741).

- Large-kernel attention: depthwise, dilated depthwise and 1x1 convolution together reach 21 x 21 positions; their
  output weights the map element by element, without softmax or sigmoid.
- A convolutional pyramid of pre-norm blocks with BatchNorm and layer scale; the MLPs have a depthwise convolution.
- Every stage ends in a LayerNorm, whose output the next stage, the head and dense predictors take.

Differences from the paper: mean and std are 0.5 (with ImageNet's B0 loses 3.4 points); the LayerNorms' epsilon is 1e-6
in classifiers and 1e-5 in segmentors; attention adds its normed input inside of the layer scale; the depthwise
convolution of the MLP replaces its input, where SMT and others add it; B6 alone has a third width of 384.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead, DropPath, LayerScale2d, calculate_drop_path_rates
from torch import nn

from backbones.layers.conv.basic import ConvNorm, DepthwiseMlp
from backbones.layers.conv.large_kernel import GatedLargeKernelAttention
from backbones.layers.init import init_fan_out
from backbones.layers.norm import LayerNorm2d
from backbones.models.skeleton import HierarchicalModel, Stage


class VANBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`, with BatchNorm, layer scale and stochastic depth.

    Args:
        dim: Channels C.
        mlp_ratio: Hidden width of the MLP is `int(C * mlp_ratio)`.
        layer_scale: Initial value of the layer scale.
        drop_path: Stochastic depth rate of both branches.

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(
        self, dim: int, mlp_ratio: float, layer_scale: float, drop_path: float = 0.0, device=None, dtype=None
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.attn = GatedLargeKernelAttention(dim, **dd)
        self.ls1 = LayerScale2d(dim, layer_scale, **dd)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.mlp = DepthwiseMlp(dim, int(dim * mlp_ratio), residual=False, **dd)
        self.ls2 = LayerScale2d(dim, layer_scale, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        mlp = self.mlp(self.norm2(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.drop_path2(self.ls2(mlp))


class VAN(HierarchicalModel):
    """Visual attention network.

    Args:
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        mlp_ratios: Hidden width of the MLPs over the channels, stage by stage.
        layer_scale: Initial value of the layer scale.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 3, 12, 3),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        layer_scale: float = 1e-2,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            blocks = [VANBlock(dims[i], mlp_ratios[i], layer_scale, rate, **dd) for rate in rates]
            downsample = ConvNorm(dims[i - 1], dims[i], 3, stride=2, bias=True, **dd) if i else None
            stages.append(Stage(blocks, downsample, LayerNorm2d(dims[i], eps=1e-6, **dd)))
        super().__init__(
            stem=ConvNorm(in_chans, dims[0], 7, stride=4, bias=True, **dd),
            stages=stages,
            dims=dims,
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )

    def _init_weights(self, module: nn.Module, name: str) -> None:
        # The MLPs' linears are 1x1 convolutions in the paper.
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not name.startswith("head."):
            init_fan_out(module)
        else:
            super()._init_weights(module, name)
