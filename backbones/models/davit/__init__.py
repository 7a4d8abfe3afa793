"""DaViT: dual attention vision transformer."""

from backbones.models.davit import weights
from backbones.models.davit.model import DaViT, DaViTBlock

__all__ = ["DaViT", "DaViTBlock", "weights"]
