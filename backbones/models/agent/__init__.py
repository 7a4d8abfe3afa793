"""Agent attention in DeiT, PVT, Swin and CSWin."""

from backbones.models.agent import weights

__all__ = ["weights"]
