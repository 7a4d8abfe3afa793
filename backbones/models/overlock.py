"""OverLoCK: an overview first, then a close look (Lou and Yu, CVPR 2025, arXiv 2502.20087).

- A base network (strides 4, 8, 16) feeds a small overview network at stride 32, whose coarse map is the context.
- A focus network starts again from the base network's stride-16 map and goes on at strides 16 and 32. Each of its
  blocks reads the context twice: as further channels, and as the keys of a dynamic convolution (ContMix).
- Large depthwise kernels train as a sum of dilated branches and merge to one convolution (`reparameterize`).

This is the one family in which a second map crosses a stage boundary: stage 3 (stride 16) hands its map and the
context to stage 4. A focus block's map is the pair [features, context] joined on channels, and so are the outputs of
both stages.

Differences from the paper: the layer scales sit on the shortcuts and have a bias; dense models feed stage 3 with the
normed stride-8 output; the published parameter counts are those of the merged form; tables of position bias, layer
scales and response norms are decayed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from timm.layers import calculate_drop_path_rates, get_device_dtype
from torch import nn

from backbones._compat import MATCH_PREV_GROUP
from backbones.layers.conv.basic import ConvNorm
from backbones.layers.conv.reparam import DilatedReparamConv, merge_state_dict
from backbones.layers.head import ConvHead
from backbones.layers.norm import ChannelAffine, LayerNorm2d
from backbones.models._overlock_blocks import (
    NORM_EPS,
    AuxHead,
    BaseBlock,
    FocusBlock,
    FocusStage,
    JointDownsample,
    OverviewStage,
    Stem,
)
from backbones.models._registry import Family, Variant, Weights, register_family
from backbones.models._skeleton import Backbone, Stage


class OverLoCK(Backbone):
    """OverLoCK in its four published sizes.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
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
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.
    """

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

    def _init_weights(self, module: nn.Module, name: str) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

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

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block's activations in the backward pass instead of keeping them."""
        for module in self.stages.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """Replace the classifier, and that of the auxiliary head where there is one; see `Backbone`."""
        super().reset_classifier(num_classes, global_pool, reset_other)
        self._set_aux_head(**get_device_dtype(self))

    def _truncate(self, count: int) -> None:
        super()._truncate(count)
        self.with_aux_head = False
        self.overview_norm = self.overview_proj = None

    def _run(
        self, x: torch.Tensor, count: int | None = None, norms: Sequence[nn.Module] | None = None
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Outputs of the first `count` stages (normed where `norms` are given), and the overview map if reached."""
        outputs, context, overview = [], None, None
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for i, stage in enumerate(self.stages[:count]):
            if i == 2:
                x, context, overview = stage(x)
            elif i == 3:
                x = stage(x, context)
            else:
                x = stage(x)
            outputs.append(x if norms is None else norms[i](stage.norm(x)))
            if i == 1 and norms is not None:
                x = outputs[1]  # published dense models go on from the normed stride-8 output
            elif i < 3:
                x = stage.norm(x)
        return outputs, overview

    def forward_stages(self, x: torch.Tensor, count: int | None = None) -> list[torch.Tensor]:
        return self._run(x, count)[0]

    def forward_dense(self, x: torch.Tensor, norms: Sequence[nn.Module]) -> list[torch.Tensor]:
        """As `Backbone.forward_dense`, but stage 3 is fed with the normed output of stage 2, as published."""
        outputs, overview = self._run(x, len(norms), norms)
        if self.overview_proj is not None and len(outputs) == 4:
            outputs[3] = outputs[3] + self.overview_proj(self.overview_norm(overview))
        return outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if self.aux_head is None or not self.training:
            return super().forward(x)
        outputs, overview = self._run(x)
        return self.forward_head(self.norm(outputs[-1])), self.aux_head(overview)


# ------------------------------------------------------------------------------------------------ checkpoints, variants

_URL = "https://github.com/LMMMEng/OverLoCK/releases/download/v1"


def _stem_key(match: re.Match) -> str:
    i = int(match[1])
    return f"stem.{'norm' if i % 3 else 'conv'}{i // 3 + 1}."


def _unit_key(name: str) -> Callable[[re.Match], str]:
    """A unit [convolution, BatchNorm] (after a pooling in `weight_key`) of a focus block or a `ContMixBlock`."""
    first = 1 if name == "mix.key" else 0

    def rename(match: re.Match) -> str:
        return f"{match[1]}mixer.{name}.{'norm' if int(match[2]) > first else 'conv'}."

    return rename


_FOCUS = r"^(sub_blocks\d\.\d+\.|)"  # the prefix is empty in a ContMixBlock's own file
_BASE = r"^(blocks\d\.\d+\.)"

_KEYS = (
    (r"\.lk_origin\.", ".conv."),
    (r"\.origin_bn\.", ".norm."),
    (r"\.dil_conv_k(\d+)_(\d+)\.", r".branches.k\1_\2.conv."),
    (r"\.dil_bn_k(\d+)_(\d+)\.", r".branches.k\1_\2.norm."),
    (_BASE + r"proj\.0\.", r"\1norm1."),
    (_BASE + r"proj\.1\.", r"\1mixer."),
    (_BASE + r"proj\.2\.", r"\1norm2."),
    (_BASE + r"proj\.3\.proj\.1\.", r"\1se.fc1."),
    (_BASE + r"proj\.3\.proj\.3\.", r"\1se.fc2."),
    (_BASE + r"proj\.4\.", r"\1mlp.fc1."),
    (_BASE + r"proj\.6\.", r"\1mlp.dwconv."),
    (_BASE + r"proj\.7\.", r"\1mlp.grn."),
    (_BASE + r"proj\.8\.", r"\1mlp.fc2."),
    (_FOCUS + r"weight_query\.(\d)\.", _unit_key("mix.query")),
    (_FOCUS + r"weight_key\.(\d)\.", _unit_key("mix.key")),
    (_FOCUS + r"weight_value\.(\d)\.", _unit_key("mix.value")),
    (_FOCUS + r"weight_proj\.", r"\1mixer.mix.kernel_proj."),
    (_FOCUS + r"rpb([12])$", r"\1mixer.mix.rpb\2"),
    (_FOCUS + r"(?:dyconv|fusion)_proj\.(\d)\.", _unit_key("out")),
    (_FOCUS + r"gate\.(\d)\.", _unit_key("gate")),
    (_FOCUS + r"lepe\.0\.", r"\1mixer.lepe."),
    (_FOCUS + r"lepe\.1\.", r"\1mixer.lepe_norm."),
    (_FOCUS + r"se_layer\.proj\.1\.", r"\1mixer.se.fc1."),
    (_FOCUS + r"se_layer\.proj\.3\.", r"\1mixer.se.fc2."),
    (_FOCUS + r"proj\.0\.", r"\1mixer.norm."),
    (_FOCUS + r"proj\.1\.", r"\1mixer.proj."),
    (_FOCUS + r"mlp\.0\.", r"\1mlp.fc1."),
    (_FOCUS + r"mlp\.2\.", r"\1mlp.dwconv."),
    (_FOCUS + r"mlp\.3\.", r"\1mlp.grn."),
    (_FOCUS + r"mlp\.4\.", r"\1mlp.fc2."),
    (r"^patch_embed1\.(\d+)\.", _stem_key),
    (r"^patch_embed2\.", "stages.1.downsample."),
    (r"^patch_embed3\.", "stages.2.base.downsample."),
    (r"^patch_embed4\.", "stages.2.overview.downsample."),
    (r"^patch_embedx\.x_proj\.", "stages.3.downsample.features."),
    (r"^patch_embedx\.h_proj\.", "stages.3.downsample.context."),
    (r"^(stages\.\d.*\.(?:downsample|features|context))\.0\.", r"\1.conv."),
    (r"^(stages\.\d.*\.(?:downsample|features|context))\.1\.", r"\1.norm."),
    (r"^blocks1\.", "stages.0.blocks."),
    (r"^blocks2\.", "stages.1.blocks."),
    (r"^blocks3\.", "stages.2.base.blocks."),
    (r"^blocks4\.", "stages.2.overview.blocks."),
    (r"^high_level_proj\.", "stages.2.context_proj."),
    (r"^sub_blocks3\.", "stages.2.focus.blocks."),
    (r"^sub_blocks4\.", "stages.3.blocks."),
    (r"^head\.0\.", "head.conv."),
    (r"^head\.1\.", "head.norm."),
    (r"^head\.4\.", "head.fc."),
    (r"^aux_head\.0\.", "aux_head.norm."),
    (r"^aux_head\.2\.", "aux_head.fc."),
    (r"^extra_norm\.4\.", "overview_norm."),
    (r"^h_proj\.", "overview_proj."),
)
_MATRICES = ("head.fc.weight", "aux_head.fc.weight", "kernel_proj.weight")  # 1x1 convolutions in the authors' files


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Fit the checkpoint's large kernels (training or merged form) and auxiliary head to those of the model.

    Raises:
        ValueError: The checkpoint is merged and the model is not.
    """
    large = {name: m for name, m in model.named_modules() if isinstance(m, DilatedReparamConv)}
    if any(m.merged for m in large.values()):
        state_dict = merge_state_dict(state_dict)
    elif any(f"{name}.conv.bias" in state_dict for name in large):
        raise ValueError(
            "the checkpoint is in merged (re-parameterised) form, which cannot be taken apart: create the model with"
            " merged=True, or load the training-form checkpoint"
        )
    state_dict = {k: v.flatten(1) if k.endswith(_MATRICES) else v for k, v in state_dict.items()}
    aux_head = getattr(model, "aux_head", None)
    if aux_head is None:
        return {k: v for k, v in state_dict.items() if not k.startswith("aux_head.")}
    if "aux_head.fc.bias" in state_dict and state_dict["aux_head.fc.bias"].shape != aux_head.fc.bias.shape:
        return {k: v for k, v in state_dict.items() if not k.startswith("aux_head.fc.")}
    return state_dict


def _variant(
    size: str,
    dims: tuple[int, ...],
    depths: tuple[int, ...],
    sub_depths: tuple[int, ...],
    sub_num_heads: tuple[int, ...],
    crop_pct: float,
    top1: float,
) -> Variant:
    file = f"{_URL}/overlock_{size}_in1k_224"
    merged = Weights(f"{file}_reparam.pth", crop_pct=crop_pct, top1=top1, args={"merged": True})
    return Variant(
        {"dims": dims, "depths": depths, "sub_depths": sub_depths, "sub_num_heads": sub_num_heads},
        {"in1k": Weights(f"{file}.pth", crop_pct=crop_pct, top1=top1), "in1k_reparam": merged},
    )


register_family(
    Family(
        model=OverLoCK,
        paper_name="OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels",
        paper_ids="arXiv:2502.20087",
        origin_url="https://github.com/LMMMEng/OverLoCK",
        license="apache-2.0",
        key_map=_KEYS,
        dense_norm=r"^extra_norm\.([0-3])\.",
        dense_norm_eps=NORM_EPS,
        dense_trunk_norms=(1,),
        dense_only=r"^overview_(norm|proj)\.",
        convert=_convert,
        complete={"aux_head": True},
        tiny={
            "dims": (32, 32, 64, 64),
            "depths": (1, 1, 1, 1),
            "sub_depths": (2, 1),
            "sub_num_heads": (2, 2),
            "kernel_sizes": (7, 7, 5, 5),
            "head_size": 128,
        },
        variants={
            "overlock_xt": _variant("xt", (56, 112, 256, 336), (2, 2, 3, 2), (6, 2), (4, 6), 0.925, 82.7),
            "overlock_t": _variant("t", (64, 128, 256, 512), (4, 4, 6, 2), (12, 2), (4, 8), 0.95, 84.2),
            "overlock_s": _variant("s", (64, 128, 320, 512), (6, 6, 8, 3), (16, 3), (8, 16), 0.95, 84.8),
            "overlock_b": _variant("b", (80, 160, 384, 576), (8, 8, 10, 4), (20, 4), (6, 9), 0.975, 85.1),
        },
    )
)
