"""GC ViT: global context vision transformer."""

from backbones.models.gcvit import weights
from backbones.models.gcvit.blocks import FusedMBConv, GlobalQueryAttention, QueryGenerator
from backbones.models.gcvit.model import GCViT

__all__ = ["FusedMBConv", "GCViT", "GlobalQueryAttention", "QueryGenerator", "weights"]
