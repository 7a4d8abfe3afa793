"""SMT: scale-aware modulation transformer."""

from backbones.models.smt import weights
from backbones.models.smt.model import SMT

__all__ = ["SMT", "weights"]
