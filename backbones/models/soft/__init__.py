"""SOFT and SOFT++: softmax-free transformers."""

from backbones.models.soft import weights
from backbones.models.soft.model import SOFT, SOFTBlock

__all__ = ["SOFT", "SOFTBlock", "weights"]
