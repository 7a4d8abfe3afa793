"""Sparsifiner: vision transformers whose queries attend to few keys."""

from backbones.models.sparsifiner import weights
from backbones.models.sparsifiner.attention import AttentionPredictor, SparseAttention
from backbones.models.sparsifiner.model import Sparsifiner

__all__ = ["AttentionPredictor", "SparseAttention", "Sparsifiner", "weights"]
