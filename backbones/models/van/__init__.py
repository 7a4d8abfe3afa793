"""VAN: visual attention network."""

from backbones.models.van import weights
from backbones.models.van.model import VAN, VANBlock

__all__ = ["VAN", "VANBlock", "weights"]
