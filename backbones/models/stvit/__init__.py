"""STViT: vision transformer with super token sampling."""

from backbones.models.stvit import weights
from backbones.models.stvit.model import STViT

__all__ = ["STViT", "weights"]
