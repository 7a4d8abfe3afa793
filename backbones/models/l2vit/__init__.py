"""L2ViT: vision transformer with linear global and local window attention."""

from backbones.models.l2vit import weights
from backbones.models.l2vit.model import L2ViT, LinearBlock, WindowBlock

__all__ = ["L2ViT", "LinearBlock", "WindowBlock", "weights"]
