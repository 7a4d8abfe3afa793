"""OverLoCK: an overview first, then a close look."""

from backbones.models.overlock import weights
from backbones.models.overlock.model import OverLoCK

__all__ = ["OverLoCK", "weights"]
