"""OverLoCK: an overview first, then a close look (Lou and Yu, CVPR 2025, arXiv 2502.20087).

- A base network (strides 4, 8, 16) feeds a small overview network at stride 32, whose coarse map is the context.
- A focus network starts again from the base network's stride-16 map and goes on at strides 16 and 32. Each of its
  blocks reads the context twice: as further channels, and as the keys of a dynamic convolution (ContMix).
- Large depthwise kernels train as a sum of dilated branches and merge to one convolution (`reparameterize`).

Stage 3 (stride 16) gives its map and, as the state, the context and the overview map to stage 4. A focus block's map is
the pair [features, context] joined on channels, and so are the outputs of both stages.

Differences from the paper: the layer scales sit on the shortcuts and have a bias; dense models feed stage 3 with the
normed stride-8 output; the published parameter counts are those of the merged form; tables of position bias, layer
scales and response norms are decayed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import calculate_drop_path_rates, get_device_dtype
from torch import nn

from backbones._compat import MATCH_PREV_GROUP
from backbones.layers.conv.basic import ConvNorm
from backbones.layers.conv.reparam import DilatedReparamConv
from backbones.layers.head import ConvHead
from backbones.layers.norm import ChannelAffine, LayerNorm2d
from backbones.models.overlock.blocks import (
    NORM_EPS,
    AuxHead,
    BaseBlock,
    FocusBlock,
    FocusStage,
    JointDownsample,
    OverviewStage,
    Stem,
)
from backbones.models.skeleton import HierarchicalModel, Stage


class OverLoCK(HierarchicalModel):
    """OverLoCK in its four published sizes.

    Args:
        dims: Channels of the base network's three stages and of the overview network; the context has a quarter of the
            last.
        depths: Blocks of the same.
        sub_depths: Blocks of the two focus stages.
        sub_num_heads: Heads of the two focus stages; each dynamic convolution has twice as many.
        kernel_sizes: Large kernels of the strides 4, 8, 16 and 32.
        small_kernel_size: Small kernel of the dynamic convolutions.
        mlp_ratio, sub_mlp_ratio: Hidden width of the MLPs over the channels, of base and focus blocks.
        head_size: Hidden width of the head.
        merged: Build the large kernels in their merged form, for inference.
        aux_head: Add the authors' training head on the overview map: in training mode the model then returns
            `(logits, aux_logits)`; the authors weight the second loss by 0.4.
        overview_out: Add the overview map, normed and projected, to the last output of `forward_dense`, as the
            published detectors do. Only `forward_dense` uses these layers.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.
    """

    trunk_norms = (1,)
    normal_layers = (nn.Conv2d, nn.Linear)

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (56, 112, 256, 336),
        depths: Sequence[int] = (2, 2, 3, 2),
        sub_depths: Sequence[int] = (6, 2),
        sub_num_heads: Sequence[int] = (4, 6),
        kernel_sizes: Sequence[int] = (17, 15, 13, 7),
        small_kernel_size: int = 5,
        mlp_ratio: float = 4.0,
        sub_mlp_ratio: float = 3.0,
        head_size: int = 1024,
        merged: bool = False,
        aux_head: bool = False,
        overview_out: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        d1, d2, d3, d4 = dims
        context_dim = d4 // 4
        rates = calculate_drop_path_rates(drop_path_rate, [*depths, *sub_depths], stagewise=True)

        def base(i: int) -> list[BaseBlock]:
            kinds = {"mlp_ratio": mlp_ratio, "shortcut_scale": i >= 2, "merged": merged}
            return [BaseBlock(dims[i], kernel_sizes[i], drop_path=rate, **kinds, **dd) for rate in rates[i]]

        def focus(i: int) -> list[FocusBlock]:
            return [
                FocusBlock(
                    dims[2 + i],
                    context_dim,
                    sub_num_heads[i],
                    kernel_sizes[2 + i],
                    small_kernel_size,
                    sub_mlp_ratio,
                    update_context=i + j > 0,  # the first block of all begins with the context itself
                    drop_path=rate,
                    merged=merged,
                    **dd,
                )
                for j, rate in enumerate(rates[4 + i])
            ]

        super().__init__(
            stem=Stem(in_chans, d1, **dd),
            stages=[
                Stage(base(0)),
                Stage(base(1), ConvNorm(d1, d2, 3, stride=2, **dd)),
                OverviewStage(
                    base=Stage(base(2), ConvNorm(d2, d3, 3, stride=2, **dd)),
                    overview=Stage(base(3), ConvNorm(d3, d4, 3, stride=2, **dd)),
                    context_proj=nn.Conv2d(d4, context_dim, 1, **dd),
                    focus=FocusStage(focus(0)),
                ),
                FocusStage(focus(1), JointDownsample(d3, d4, context_dim, **dd)),
            ],
            dims=(d1, d2, d3 + context_dim, d4 + context_dim),
            head=ConvHead(d4 + context_dim, num_classes, head_size, global_pool, drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )
        self.overview_dim = d4
        self.with_aux_head = aux_head
        self._set_aux_head(**dd)
        self.overview_norm = self.overview_proj = None
        if overview_out:
            joined = d4 + context_dim
            self.overview_norm = LayerNorm2d(d4, eps=NORM_EPS, **dd)
            self.overview_proj = nn.Sequential(nn.Conv2d(d4, joined, 1, **dd), ChannelAffine(joined, 1e-5, **dd))
            self._init_weights(self.overview_proj[0], "overview_proj.0")

    def _set_aux_head(self, device=None, dtype=None) -> None:
        self.aux_head = None
        if self.with_aux_head and self.num_classes > 0:
            self.aux_head = AuxHead(self.overview_dim, self.num_classes, device=device, dtype=dtype)
            self._init_weights(self.aux_head.fc, "aux_head.fc")

    def reparameterize(self) -> None:
        """Merge every large kernel with its branches, in place; for inference."""
        for module in self.modules():
            if isinstance(module, DilatedReparamConv):
                module.reparameterize()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Layer-decay groups in the order of computation: base, overview, then focus network."""
        if coarse:
            return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}
        part = r"^stages\.2\."
        return {
            "stem": r"^stem",
            "base": [(r"^stages\.([01])\.downsample", (0,)), (r"^stages\.([01])\.blocks\.(\d+)", None)],
            "base3": [(part + r"base\.downsample", (0,)), (part + r"base\.blocks\.(\d+)", None)],
            "overview": [
                (part + r"overview\.downsample", (0,)),
                (part + r"overview\.blocks\.(\d+)", None),
                (part + "context_proj", MATCH_PREV_GROUP),
            ],
            "focus3": [(part + r"focus\.blocks\.(\d+)", None)],
            "focus4": [(r"^stages\.3\.downsample", (0,)), (r"^stages\.3\.blocks\.(\d+)", None)],
        }

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """Replace the classifier, and that of the auxiliary head where there is one; see `HierarchicalModel`."""
        super().reset_classifier(num_classes, global_pool, reset_other)
        self._set_aux_head(**get_device_dtype(self))

    def _truncate(self, count: int) -> None:
        super()._truncate(count)
        self.with_aux_head = False
        self.overview_norm = self.overview_proj = None

    def forward_dense(self, x: torch.Tensor, norms: Sequence[nn.Module]) -> list[torch.Tensor]:
        """As in every model, with the overview map added to the last output where the model has `overview_out`."""
        outputs, state = self._run(x, len(norms), norms)
        if self.overview_proj is not None and len(outputs) == 4:
            _, overview = state
            outputs[3] = outputs[3] + self.overview_proj(self.overview_norm(overview))
        return outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if self.aux_head is None or not self.training:
            return super().forward(x)
        outputs, (_, overview) = self._run(x)
        return self.forward_head(self._norm_last(outputs[-1])), self.aux_head(overview)
