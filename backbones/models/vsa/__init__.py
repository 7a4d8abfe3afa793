"""VSA: varied-size window attention, in ViTAEv2 and in Swin."""

from backbones.models.vsa import weights
from backbones.models.vsa.blocks import NormalCell, ReductionCell, SwinVSABlock
from backbones.models.vsa.model import SwinVSA, ViTAEv2VSA

__all__ = ["NormalCell", "ReductionCell", "SwinVSA", "SwinVSABlock", "ViTAEv2VSA", "weights"]
