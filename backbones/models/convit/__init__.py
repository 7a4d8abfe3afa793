"""ConViT: vision transformers with soft convolutional inductive biases."""

from backbones.models.convit import weights
from backbones.models.convit.model import ConViT

__all__ = ["ConViT", "weights"]
