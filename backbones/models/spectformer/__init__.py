"""SpectFormer: spectral gating in the first layers, attention in the others."""

from backbones.models.spectformer import weights
from backbones.models.spectformer.hierarchical import SpectFormer
from backbones.models.spectformer.vanilla import VanillaSpectFormer

__all__ = ["SpectFormer", "VanillaSpectFormer", "weights"]
