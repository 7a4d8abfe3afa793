"""Convolutional mixers and blocks."""

from backbones.layers.conv.basic import ConvMlp, ConvNorm, DepthwiseMlp, ResidualDepthwiseConv
from backbones.layers.conv.contmix import ContMix, ContMixBlock, GatedContMix
from backbones.layers.conv.depthwise import LargeDepthwiseConv2d
from backbones.layers.conv.dynamic import DynamicDepthwiseConv, PredictedDepthwiseConv
from backbones.layers.conv.large_kernel import GatedLargeKernelAttention, LargeKernelAttention
from backbones.layers.conv.mbconv import AvgPool2dSame, Conv2dSame, MBConv
from backbones.layers.conv.modulation import MultiHeadMixedConv, ScaleAwareModulation
from backbones.layers.conv.multiscale import MultiScaleDepthwiseConv
from backbones.layers.conv.reparam import DilatedReparamConv, merge_state_dict

__all__ = [
    "AvgPool2dSame",
    "ContMix",
    "ContMixBlock",
    "Conv2dSame",
    "ConvMlp",
    "ConvNorm",
    "DepthwiseMlp",
    "DilatedReparamConv",
    "DynamicDepthwiseConv",
    "GatedContMix",
    "GatedLargeKernelAttention",
    "LargeDepthwiseConv2d",
    "LargeKernelAttention",
    "MBConv",
    "MultiHeadMixedConv",
    "MultiScaleDepthwiseConv",
    "PredictedDepthwiseConv",
    "ResidualDepthwiseConv",
    "ScaleAwareModulation",
    "merge_state_dict",
]
