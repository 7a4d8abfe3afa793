"""EMOv2 and EMO: mobile networks of inverted residual blocks with attention."""

from backbones.models.emov2 import weights
from backbones.models.emov2.model import EMOv2

__all__ = ["EMOv2", "weights"]
