"""ConViT: vision transformers with soft convolutional inductive biases."""

from backbones.models.convit import weights
from backbones.models.convit.model import ConViT, GatedPositionalAttention

__all__ = ["ConViT", "GatedPositionalAttention", "weights"]
