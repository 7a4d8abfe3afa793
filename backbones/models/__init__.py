"""The model families; importing this package registers them with timm."""

from backbones.models import biformer, emov2, maxvit, nat, overlock, patnet, shvit, smt, transxnet, van  # noqa: F401
from backbones.models._registry import family_of, list_known, list_models

__all__ = ["family_of", "list_known", "list_models"]
