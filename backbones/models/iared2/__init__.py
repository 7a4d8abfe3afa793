"""IA-RED2: vision transformers that drop redundant patches."""

from backbones.models.iared2 import weights
from backbones.models.iared2.model import IARED2, Interpreter, PolicyLoss

__all__ = ["IARED2", "Interpreter", "PolicyLoss", "weights"]
