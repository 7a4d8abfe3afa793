"""Hierarchical vision backbones; importing this package registers every model with timm."""

from backbones._version import __version__
from backbones.models import list_models

__all__ = ["__version__", "list_models"]
