"""SHViT: single-head vision transformer; the models are timm's."""

from backbones.models.shvit import weights

__all__ = ["weights"]
