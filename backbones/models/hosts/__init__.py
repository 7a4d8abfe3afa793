"""PVT and CSWin with their own attention, which timm lacks."""

from backbones.models.hosts import weights

__all__ = ["weights"]
