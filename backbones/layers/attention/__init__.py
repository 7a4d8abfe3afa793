"""Attention on channels-last maps."""

from backbones.layers.attention.agent import AgentAttention
from backbones.layers.attention.channel import ChannelAttention
from backbones.layers.attention.gated_positional import GatedPositionalAttention
from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.attention.halo import HaloAttention
from backbones.layers.attention.hybrid import HybridWindowAttention
from backbones.layers.attention.linear_attention import (
    GatedRotaryAttention,
    MagnitudeAwareLinearAttention,
    RankAugmentedLinearAttention,
)
from backbones.layers.attention.neighborhood import NeighborhoodAttention2d
from backbones.layers.attention.reduction import OverlappingReductionAttention, PairBias
from backbones.layers.attention.relpos import DistanceBias2d, RelativePositionBias2d, resize_bias_table
from backbones.layers.attention.relu_linear import ReLULinearAttention
from backbones.layers.attention.routing import BiLevelRoutingAttention
from backbones.layers.attention.softmax_free import SoftmaxFreeAttention
from backbones.layers.attention.super_token import SuperTokenAttention
from backbones.layers.attention.window import GridAttention, WindowAttention

__all__ = [
    "AgentAttention",
    "BiLevelRoutingAttention",
    "ChannelAttention",
    "DistanceBias2d",
    "GatedPositionalAttention",
    "GatedRotaryAttention",
    "GlobalAttention2d",
    "GridAttention",
    "HaloAttention",
    "HybridWindowAttention",
    "MagnitudeAwareLinearAttention",
    "NeighborhoodAttention2d",
    "OverlappingReductionAttention",
    "PairBias",
    "RankAugmentedLinearAttention",
    "ReLULinearAttention",
    "RelativePositionBias2d",
    "SoftmaxFreeAttention",
    "SuperTokenAttention",
    "WindowAttention",
    "resize_bias_table",
]
