"""Necks for mmdet.

Configs import them by name: `custom_imports = dict(imports=["backbones.dense", "backbones.dense.necks"])`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import nn

from backbones.dense.register import MODELS


@MODELS.register_module()
class TransposedFPN(BaseModule):
    """Feature pyramid with levels finer than the backbone's, by transposed convolutions on its finest sum.

    For backbones that begin at stride 16 (SHViT, arXiv 2401.16456, section 4.3): a pyramid (FPN, arXiv 1612.03144)
    whose finest map, after the top-down sums, is doubled again and again; each level has a 3x3 convolution of its own.

    Args:
        in_channels: Of the backbone's maps, the finest first.
        out_channels: Of every level.
        num_outs: Levels. Those beyond the finer ones and the backbone's are coarser, by strided convolutions on the
            backbone's last map.
        num_extra_trans_convs: Finer levels, each at half the stride of the next.
        init_cfg: As in mmengine; Xavier's uniform values for convolutions by default.

    Maps a sequence of `(B, C_i, H_i, W_i)` to a tuple of `(B, out_channels, H, W)`, the finest first.

    Raises:
        ValueError: Too few levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        num_extra_trans_convs: int = 0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"})
        coarser = num_outs - num_extra_trans_convs - len(in_channels)
        if coarser < 0:
            raise ValueError(
                f"num_outs {num_outs} is less than the {len(in_channels)} levels of the backbone and the"
                f" {num_extra_trans_convs} finer ones together"
            )
        self.in_channels, self.out_channels = tuple(in_channels), out_channels

        def unit(width: int, size: int, stride: int = 1, kind: str = "Conv2d") -> ConvModule:
            padding = size // 2 if kind == "Conv2d" else 0
            conv = {"type": kind}
            return ConvModule(width, out_channels, size, stride, padding, conv_cfg=conv, act_cfg=None)

        finer = range(num_extra_trans_convs)
        strided = [in_channels[-1], *(coarser - 1) * [out_channels]][:coarser]
        self.lateral_convs = nn.ModuleList(unit(width, 1) for width in in_channels)
        self.fpn_convs = nn.ModuleList(
            [*(unit(out_channels, 3) for _ in in_channels), *(unit(width, 3, stride=2) for width in strided)]
        )
        self.extra_trans_convs = nn.ModuleList(unit(out_channels, 2, stride=2, kind="deconv") for _ in finer)
        # The first is that of the finest level.
        self.extra_fpn_convs = nn.ModuleList(unit(out_channels, 3) for _ in finer)

    def forward(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        if len(inputs) != len(self.in_channels):
            raise ValueError(f"the neck takes {len(self.in_channels)} maps, not {len(inputs)}")
        sums = [lateral(x) for lateral, x in zip(self.lateral_convs, inputs)]
        for i in range(len(sums) - 1, 0, -1):
            sums[i - 1] = sums[i - 1] + F.interpolate(sums[i], size=sums[i - 1].shape[2:], mode="nearest")
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, sums)]
        x = inputs[-1]
        for conv in self.fpn_convs[len(sums) :]:
            x = conv(x)
            outputs.append(x)
        x, doubled = sums[0], []
        for conv in self.extra_trans_convs:
            x = conv(x)
            doubled.insert(0, x)
        return (*(conv(x) for conv, x in zip(self.extra_fpn_convs, doubled)), *outputs)
