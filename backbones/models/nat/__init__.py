"""NAT and DiNAT: neighborhood attention transformers."""

from backbones.models.nat import weights
from backbones.models.nat.model import DILATIONS, NAT, resolve_dilations

__all__ = ["DILATIONS", "NAT", "resolve_dilations", "weights"]
