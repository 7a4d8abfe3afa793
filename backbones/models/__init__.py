"""The model families, one subpackage each; importing this package registers them with timm."""

from importlib import import_module
from pkgutil import iter_modules

from backbones.models.registry import family_of, list_known, list_models

__all__ = ["family_of", "list_known", "list_models"]

for _module in iter_modules(__path__):
    if _module.ispkg:
        import_module(f"{__name__}.{_module.name}")
