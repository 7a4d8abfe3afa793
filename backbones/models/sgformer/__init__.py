"""SG-Former: self-guided transformer with evolving token reallocation."""

from backbones.models.sgformer import weights
from backbones.models.sgformer.model import SGBlock, SGFormer

__all__ = ["SGBlock", "SGFormer", "weights"]
