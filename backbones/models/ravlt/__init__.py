"""RAVLT and MAViT: vision transformers of linear attention, of augmented rank and of aware magnitude."""

from backbones.models.ravlt import weights
from backbones.models.ravlt.model import RAVLT, MAViT

__all__ = ["RAVLT", "MAViT", "weights"]
