"""Hierarchical vision backbones; importing this package registers every model with timm."""

from backbones._version import __version__
from backbones.models import list_models
from backbones.models.registry import set_weights_source

__all__ = ["__version__", "list_models"]


@set_weights_source
def _published_weights(*args):
    from backbones.checkpoints import pretrained_args  # takes a while, and is needed here only

    return pretrained_args(*args)
