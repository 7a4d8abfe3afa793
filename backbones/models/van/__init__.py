"""VAN: visual attention network."""

from backbones.models.van import weights
from backbones.models.van.model import VAN

__all__ = ["VAN", "weights"]
