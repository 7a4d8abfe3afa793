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
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import ClassifierHead, DropPath, LayerScale2d, calculate_drop_path_rates
from torch import nn

from backbones.layers.conv.basic import ConvNorm, DepthwiseMlp
from backbones.layers.conv.large_kernel import GatedLargeKernelAttention
from backbones.layers.init import init_fan_out
from backbones.layers.norm import LayerNorm2d
from backbones.models._registry import Family, Variant, Weights, register_family
from backbones.models._skeleton import Backbone, Stage


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


class VAN(Backbone):
    """Visual attention network.

    Args:
        in_chans: Image channels.
        num_classes: Classes, 0 for none.
        global_pool: Pooling before the classifier.
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        mlp_ratios: Hidden width of the MLPs over the channels, stage by stage.
        layer_scale: Initial value of the layer scale.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.
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


# ------------------------------------------------------------------------------------------------ checkpoints, variants

_KEYS = (
    (r"^patch_embed1\.proj\.", "stem.conv."),
    (r"^patch_embed1\.norm\.", "stem.norm."),
    (r"^patch_embed(\d)\.proj\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.conv."),
    (r"^patch_embed(\d)\.norm\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.norm."),
    (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
    (r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
    (r"\.layer_scale_([12])$", r".ls\1.gamma"),
    (r"\.attn\.proj_([12])\.", r".attn.proj\1."),
    (r"\.spatial_gating_unit\.conv0\.", ".attn.near."),
    (r"\.spatial_gating_unit\.conv_spatial\.", ".attn.far."),
    (r"\.spatial_gating_unit\.conv1\.", ".attn.mix."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The MLPs' 1x1 convolutions are linears here."""
    return {
        key: value.flatten(1) if key.endswith((".mlp.fc1.weight", ".mlp.fc2.weight")) else value
        for key, value in state_dict.items()
    }


_HALF = {"mean": IMAGENET_INCEPTION_MEAN, "std": IMAGENET_INCEPTION_STD, "crop_pct": 0.9}
_HUB = "https://huggingface.co/Visual-Attention-Network"
_FOLDER = "https://cloud.tsinghua.edu.cn/d/0100f0cea37d41ba8d08/"
_MIRROR = "https://download.openmmlab.com/mmsegmentation/v0.5/van_3rdparty"


def _in1k(size: str, top1: float) -> dict[str, Weights]:
    name = f"van_{size.lower()}_{round(top1 * 10)}"
    return {"in1k": Weights(f"{_HUB}/VAN-{size}-original/resolve/main/{name}.pth.tar", top1=top1, **_HALF)}


def _in22k(file: str, *fine_tuned: float) -> dict[str, Weights]:
    notes = (
        f"OpenMMLab's copy of {file.split('-in22k')[0].replace('-', '_')}_22k.pth in {_FOLDER}",
        "fine-tuned on ImageNet-1K, the paper reports top-1 of {} at 224 and {} at 384; neither those weights nor the "
        "recipe are published".format(*fine_tuned),
        "the class count is not stated, nor whether there is a classifier: the model takes that of the file",
    )
    return {"in22k": Weights(f"{_MIRROR}/{file}.pth", num_classes=None, notes=notes, **_HALF)}


_B4 = Weights(
    page=_FOLDER,
    top1=84.2,
    num_classes=None,
    notes=("the file is van_b4.pth; whether it holds the classifier is not stated",),
    **_HALF,
)
_MEDIUM = (64, 128, 320, 512)

register_family(
    Family(
        model=VAN,
        paper_name="Visual Attention Network",
        paper_ids="arXiv:2202.09741",
        origin_url="https://github.com/Visual-Attention-Network/VAN-Classification",
        license="apache-2.0",
        key_map=_KEYS,
        convert=_convert,
        first_conv="stem.conv",
        tiny={"dims": (16, 32, 40, 64), "depths": (1, 1, 2, 1), "mlp_ratios": (2, 2, 2, 2)},
        variants={
            "van_b0": Variant({"dims": (32, 64, 160, 256), "depths": (3, 3, 5, 2)}, _in1k("Tiny", 75.4)),
            "van_b1": Variant({"dims": _MEDIUM, "depths": (2, 2, 4, 2)}, _in1k("Small", 81.1)),
            "van_b2": Variant({"dims": _MEDIUM, "depths": (3, 3, 12, 3)}, _in1k("Base", 82.8)),
            "van_b3": Variant({"dims": _MEDIUM, "depths": (3, 5, 27, 3)}, _in1k("Large", 83.9)),
            "van_b4": Variant(
                {"dims": _MEDIUM, "depths": (3, 6, 40, 3)},
                {"in1k": _B4, **_in22k("van-b4-in22k_3rdparty_20230522-5e31cafb", 85.7, 86.6)},
            ),
            "van_b5": Variant(
                {"dims": (96, 192, 480, 768), "depths": (3, 3, 24, 3)},
                _in22k("van-b5-in22k_3rdparty_20230522-b26134d7", 86.3, 87.0),
            ),
            "van_b6": Variant(
                {"dims": (96, 192, 384, 768), "depths": (6, 6, 90, 6)},
                _in22k("van-b6-in22k_3rdparty_20230522-5e5172a3", 86.9, 87.8),
            ),
        },
    )
)
