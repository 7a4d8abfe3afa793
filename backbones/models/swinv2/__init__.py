"""Swin Transformer V2, and SimMIM, its pre-training by masked images."""

from backbones.models.swinv2 import weights
from backbones.models.swinv2.model import SwinV2, SwinV2Block
from backbones.models.swinv2.simmim import SimMIM

__all__ = ["SimMIM", "SwinV2", "SwinV2Block", "weights"]
