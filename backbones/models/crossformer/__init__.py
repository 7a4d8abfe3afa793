"""CrossFormer and CrossFormer++."""

from backbones.models.crossformer import weights
from backbones.models.crossformer.blocks import CrossFormerAttention, CrossFormerBlock
from backbones.models.crossformer.model import CrossFormer

__all__ = ["CrossFormer", "CrossFormerAttention", "CrossFormerBlock", "weights"]
