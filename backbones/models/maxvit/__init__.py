"""MaxViT: multi-axis vision transformer."""

from backbones.models.maxvit import weights
from backbones.models.maxvit.model import MaxViT

__all__ = ["MaxViT", "weights"]
