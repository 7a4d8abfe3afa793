"""TransNeXt: robust foveal visual perception for vision transformers (Shi, CVPR 2024, arXiv 2311.17132).

- Aggregated attention: every pixel attends to the 3x3 pixels around it and to the pooled map by one softmax. The last
  stage attends to all positions.
- Logits are cosines, scaled by the logarithm of the number of keys; position biases are functions of log-spaced
  offsets. Both hold at any image size, so images of any size are taken as they are, as by the authors' models that are
  built for that size with `pretrain_size` 224.
- The MLPs are gated linear units whose gate has a depthwise convolution.
- Every stage ends in a LayerNorm, whose output the next stage, the head and dense predictors take.

Differences from the paper: the keys of local and pooled features share one projection; the learned tokens are
multiplied with queries that have neither embedding nor scale; LayerNorms have an epsilon of 1e-6 in blocks and after
stages, of 1e-5 after patch embeddings and pooling.
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import ClassifierHead, calculate_drop_path_rates
from torch import nn

from backbones.layers.attention.aggregated import AggregatedAttention, CosineAttention2d
from backbones.layers.block import MixerBlock
from backbones.layers.conv.basic import ConvGLU
from backbones.layers.init import init_fan_out
from backbones.layers.norm import LayerNorm2d
from backbones.layers.patch import OverlappingPatchEmbed
from backbones.models.skeleton import HierarchicalModel, Stage


class TransNeXt(HierarchicalModel):
    """TransNeXt.

    Args:
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        num_heads: Heads of attention in each stage.
        reductions: How much smaller each stage's pooled map is than its map; 1 for attention of all positions to all.
        mlp_ratios: The hidden width of the MLPs is 2/3 of that many times the channels, stage by stage.
        window_size: Side of the window of aggregated attention, odd.
        pretrain_size: Side of the images of the pre-training, which position biases count in.
        bias_size: Side of the images that position biases are computed for; they are interpolated to the maps of
            others, as in the authors' detectors (800) and segmentors (512). None for the images in use.
        pool_size: Pool all maps to that many cells a side ("linear inference mode"); None to follow `reductions`.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.

    Raises:
        ValueError: Heads that do not divide the channels, or an even window.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (72, 144, 288, 576),
        depths: Sequence[int] = (2, 2, 15, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        reductions: Sequence[int] = (8, 4, 2, 1),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        window_size: int = 3,
        pretrain_size: int = 224,
        bias_size: int | None = None,
        pool_size: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}

        def attention(i: int) -> nn.Module:
            trained_map = (pretrain_size // 2 ** (i + 2),) * 2
            bias_map = None if bias_size is None else (bias_size // 2 ** (i + 2),) * 2
            if reductions[i] == 1:
                return CosineAttention2d(dims[i], num_heads[i], trained_map, bias_map, **dd)
            form = (reductions[i], pool_size, window_size)
            return AggregatedAttention(dims[i], num_heads[i], trained_map, bias_map, *form, **dd)

        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            blocks = [
                self.make_block(
                    i,
                    dim=dims[i],
                    mixer=attention(i),
                    norm_eps=1e-6,
                    drop_path=rate,
                    mlp=ConvGLU(dims[i], int(2 * int(dims[i] * mlp_ratios[i]) / 3), **dd),
                    **dd,
                )
                for rate in rates
            ]
            downsample = OverlappingPatchEmbed(dims[i - 1], dims[i], 3, 2, **dd) if i else None
            stages.append(self.make_stage(blocks, downsample, LayerNorm2d(dims[i], eps=1e-6, **dd)))
        super().__init__(
            stem=OverlappingPatchEmbed(in_chans, dims[0], 7, 4, **dd),
            stages=stages,
            dims=dims,
            head=ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )

    def make_block(self, stage: int, **parts) -> nn.Module:
        """A block of a stage, of the arguments of `MixerBlock`."""
        return MixerBlock(**parts)

    def make_stage(self, *parts) -> Stage:
        """A stage, of the arguments of `Stage`."""
        return Stage(*parts)

    def _init_weights(self, module: nn.Module, name: str) -> None:
        # The layer before pooling is a 1x1 convolution in the paper.
        if isinstance(module, nn.Conv2d) or name.endswith(".attn.sr"):
            init_fan_out(module)
        else:
            super()._init_weights(module, name)
