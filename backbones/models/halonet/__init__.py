"""HaloNet: blocked local self-attention with halos."""

from backbones.models.halonet import weights
from backbones.models.halonet.model import HaloNet

__all__ = ["HaloNet", "weights"]
