"""InLine attention in DeiT, PVT, Swin and CSWin."""

from backbones.models.inline import weights

__all__ = ["weights"]
