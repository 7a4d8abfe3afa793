"""NAT and DiNAT: neighborhood attention transformers."""

from backbones.models.nat import weights
from backbones.models.nat.model import NAT

__all__ = ["NAT", "weights"]
