"""PATNet: partial convolution meets visual attention."""

from backbones.models.patnet import weights
from backbones.models.patnet.model import PATNet

__all__ = ["PATNet", "weights"]
