"""TransNeXt, and MoH: TransNeXt with mixture-of-head attention."""

from backbones.models.moh import weights
from backbones.models.moh.model import HeadRouter, MoHTransNeXt
from backbones.models.moh.transnext import TransNeXt

__all__ = ["HeadRouter", "MoHTransNeXt", "TransNeXt", "weights"]
