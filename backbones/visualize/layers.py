"""Where the layers that mix positions have their values, for `capture_attention`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from backbones.layers import attention as zoo
from backbones.layers.attention.aggregated import AggregatedAttention, CosineAttention2d
from backbones.layers.conv.contmix import ContMix
from backbones.layers.conv.dynamic import DynamicDepthwiseConv
from backbones.models.emov2.model import AttentionExpansion
from backbones.models.gcvit.blocks import GlobalQueryAttention
from backbones.models.sgformer.attention import HybridScaleAttention, SelfGuidedAttention

View = Callable[[nn.Module, Tensor], Tensor]


def part(index: int, count: int) -> View:
    """One of `count` equal parts of the channels, `(..., heads, c)`."""
    return lambda layer, out: out.unflatten(-1, (count, layer.num_heads, -1))[..., index, :, :]


@dataclass(frozen=True)
class Values:
    """Where a layer's values are, and how they come to its output.

    Attributes:
        module: The submodule whose output has the values; "" where the layer mixes its input itself.
        view: From the layer and that output, channels last, to the values `(..., heads, c)`.
        keys: "positions" of the map; "cells" of a reduced map, which the submodule takes; or "both", positions first.
        after: Submodules behind the sum of weighted values, such as the output projection; they are left out.
        through: Submodules before the values that mix positions and no channels; they are kept.
        gate: From the layer and the submodule's output to the part that the result is multiplied by.
        argument: Which argument of the layer is mixed; the first where it is not given.
        entry: The submodule whose output is mixed, where the layer is a block with norm and shortcut.
        first: What has its channels first, of "input", "values" and "output".
        heads: Of the layer.
        result: Which of how many parts of the output's channels.
    """

    module: str
    view: View
    keys: str = "positions"
    after: tuple[str, ...] = ("proj",)
    through: tuple[str, ...] = ()
    gate: View | None = None
    argument: int = 0
    entry: str | None = None
    first: tuple[str, ...] = ()
    heads: Callable[[nn.Module], int] = lambda layer: layer.num_heads
    result: tuple[int, int] = (0, 1)


def _whole(layer: nn.Module, out: Tensor) -> Tensor:
    return out.unflatten(-1, (layer.num_heads, -1))


def _halo(layer: nn.Module, out: Tensor) -> Tensor:
    return out.unflatten(-1, (layer.num_heads, -1))[..., layer.head_dim :]


def _routed(layer: nn.Module, out: Tensor) -> Tensor:
    return out[..., layer.qk_dim :].unflatten(-1, (layer.num_heads, -1))


def _half(index: int, count: int) -> View:
    return lambda layer, out: out.unflatten(-1, (count, layer.num_heads // 2, -1))[..., index, :, :]


def _halved(layer: nn.Module) -> int:
    return layer.num_heads // 2


QKV = (Values("qkv", part(2, 3)),)
LAYERS: dict[type[nn.Module], tuple[Values, ...]] = {
    zoo.AgentAttention: QKV,
    zoo.CrossShapedAttention: QKV,
    zoo.GlobalAttention2d: QKV,  # and super tokens, and tokens
    zoo.NeighborhoodAttention2d: QKV,
    zoo.ReLULinearAttention: QKV,
    zoo.WindowAttention: QKV,  # and grids, shifted windows and those of CrossFormer
    zoo.InLineAttention: QKV,
    CosineAttention2d: QKV,
    GlobalQueryAttention: (Values("qkv", part(1, 2)),),
    zoo.GatedPositionalAttention: (Values("v", _whole),),
    zoo.GatedRotaryAttention: (Values("qkvo", part(2, 4), gate=part(3, 4)),),  # and linear attentions
    zoo.SoftmaxFreeAttention: (Values("qv", part(1, 2)),),
    zoo.VariedSizeWindowAttention: (Values("kv", part(1, 2)),),
    zoo.BiLevelRoutingAttention: (Values("kv", _routed),),
    zoo.HaloAttention: (Values("kv", _halo, after=()),),
    zoo.HybridWindowAttention: (Values("v", _whole, after=("act",)),),
    AttentionExpansion: (Values("v", _whole, after=("act",), first=("input", "output")),),
    zoo.SpatialReductionAttention: (Values("kv", part(1, 2), keys="cells"),),
    zoo.OverlappingReductionAttention: (Values("kv", part(1, 2), keys="cells", after=(), first=("input",)),),
    AggregatedAttention: (Values("kv", part(1, 2), keys="both"),),
    HybridScaleAttention: (
        Values("kv", _half(1, 2), keys="cells", heads=_halved, result=(0, 2)),
        Values("qkv", _half(3, 4), heads=_halved, result=(1, 2)),
    ),
    SelfGuidedAttention: (Values("kv", part(1, 2), through=("merge",)),),
    ContMix: (
        Values(
            "value",
            lambda layer, out: out.unflatten(-1, (2 * layer.num_heads, -1)),
            after=(),
            argument=2,
            first=("input", "values", "output"),
            heads=lambda layer: 2 * layer.num_heads,
        ),
    ),
    DynamicDepthwiseConv: (
        Values("", _whole, after=(), first=("input", "output"), heads=lambda layer: layer.weight.shape[1]),
    ),
    Attention: (Values("qkv", part(2, 3), after=("norm", "proj")),),
    SwinTransformerBlock: (
        Values(
            "attn.qkv",
            lambda block, out: part(2, 3)(block.attn, out),
            after=("attn.proj",),
            entry="norm1",
            heads=lambda block: block.attn.num_heads,
        ),
    ),
}  # fmt: skip


def described(layer: nn.Module) -> tuple[Values, ...] | None:
    """The description of a layer; None where it has no weights of positions."""
    return next((LAYERS[kind] for kind in type(layer).__mro__ if kind in LAYERS), None)
