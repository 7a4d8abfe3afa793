"""BiFormer: vision transformer with bi-level routing attention."""

from backbones.models.biformer import weights
from backbones.models.biformer.model import BiFormer

__all__ = ["BiFormer", "weights"]
