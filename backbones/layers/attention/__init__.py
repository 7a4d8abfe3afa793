"""Attention on channels-last maps."""

from backbones.layers.attention.agent import AgentAttention
from backbones.layers.attention.channel import ChannelAttention
from backbones.layers.attention.gated_positional import GatedPositionalAttention
from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.attention.halo import HaloAttention
from backbones.layers.attention.hybrid import HybridWindowAttention
from backbones.layers.attention.inline import InLineAttention
from backbones.layers.attention.linear_attention import (
    GatedRotaryAttention,
    MagnitudeAwareLinearAttention,
    RankAugmentedLinearAttention,
)
from backbones.layers.attention.neighborhood import NeighborhoodAttention2d
from backbones.layers.attention.reduction import OverlappingReductionAttention, PairBias, SpatialReductionAttention
from backbones.layers.attention.relpos import DistanceBias2d, RelativePositionBias2d, resize_bias_table
from backbones.layers.attention.relu_linear import ReLULinearAttention
from backbones.layers.attention.routing import BiLevelRoutingAttention
from backbones.layers.attention.softmax_free import SoftmaxFreeAttention
from backbones.layers.attention.stripe import CrossShapedAttention
from backbones.layers.attention.super_token import SuperTokenAttention
from backbones.layers.attention.varied_window import VariedSizeWindowAttention
from backbones.layers.attention.window import GridAttention, WindowAttention

__all__ = [
    "AgentAttention",
    "BiLevelRoutingAttention",
    "ChannelAttention",
    "CrossShapedAttention",
    "DistanceBias2d",
    "GatedPositionalAttention",
    "GatedRotaryAttention",
    "GlobalAttention2d",
    "GridAttention",
    "HaloAttention",
    "HybridWindowAttention",
    "InLineAttention",
    "MagnitudeAwareLinearAttention",
    "NeighborhoodAttention2d",
    "OverlappingReductionAttention",
    "PairBias",
    "RankAugmentedLinearAttention",
    "ReLULinearAttention",
    "RelativePositionBias2d",
    "SoftmaxFreeAttention",
    "SpatialReductionAttention",
    "SuperTokenAttention",
    "VariedSizeWindowAttention",
    "WindowAttention",
    "resize_bias_table",
]
