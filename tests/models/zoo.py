"""Which models the contract tests build, and how: everything follows from what is registered."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any

import timm
import torch
from torch import nn

import backbones
from backbones.models import family_of
from backbones.models.isotropic import IsotropicModel

MODELS = backbones.list_models()
TAGGED = timm.list_models(module="backbones", include_tags=True)
# Sizes that the authors' code has and that they publish no weights of.
UNPUBLISHED = sorted(set(TAGGED) - set(timm.list_models(module="backbones", pretrained=True)))

# A multiple of every stride, smaller than most windows, odd sides, and both orientations.
SIZES = ((32, 32), (33, 47), (64, 96), (224, 160), (75, 50))


def _one_of_each(names: Sequence[str], key: Callable[[str], Hashable]) -> list[str]:
    found: dict[Hashable, str] = {}
    for name in names:
        found.setdefault(key(name), name)
    return sorted(found.values())


def _test_size_args(name: str) -> Hashable:
    """The constructor call of a test-size model: variant, default weights, then `Family.tiny`."""
    family = family_of(name)
    variant = family.variants[name]
    args = {**variant.args, **next(iter(variant.weights.values())).args, **family.tiny}
    return family.model, repr(sorted(args.items()))


def _mechanisms(name: str) -> frozenset[type]:
    """Which of our modules a model is made of, itself included."""
    model = tiny(name, device="meta")
    return frozenset(type(m) for m in model.modules() if type(m).__module__.startswith("backbones."))


def tiny(name: str, seed: int = 0, **kwargs: Any) -> nn.Module:
    """A test-size model in evaluation mode, the same weights for the same seed."""
    torch.manual_seed(seed)
    return timm.create_model(name, **{**family_of(name).tiny, **kwargs}).eval()


def on_meta(name: str, **kwargs: Any) -> nn.Module:
    """A full-size model without storage, in evaluation mode."""
    return timm.create_model(name, device="meta", **kwargs).eval()


@cache
def full_size(name: str) -> nn.Module:
    """The same, made once: look, do not change."""
    return on_meta(name)


def image(height: int = 64, width: int = 64, batch: int = 2, channels: int = 3, seed: int = 1) -> torch.Tensor:
    """`(batch, channels, height, width)` of standard normal numbers."""
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def stir(model: nn.Module, seed: int = 2, std: float = 0.2) -> nn.Module:
    """Move every parameter off its initial value, so that zeros and tiny scales in it cannot hide a fault."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((std * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    return model


def features_shape(model: nn.Module, height: int, width: int) -> tuple[int, ...]:
    """Of one image's unpooled features: a map, or tokens, where the model has some in front of the last map."""
    if hasattr(model, "num_prefix_tokens"):
        return model.num_prefix_tokens + height * width, model.num_features
    return model.num_features, height, width


def is_isotropic(model: nn.Module) -> bool:
    """Whether the model keeps one grid of tokens, and every block is a feature."""
    return isinstance(model, IsotropicModel)


def is_pyramid(name: str) -> bool:
    """Whether the model's maps have the strides 4, 8, 16, 32."""
    return [info["reduction"] for info in full_size(name).feature_info] == [4, 8, 16, 32]


# One name for each test-size model that differs from the others; and, for what takes seconds, as few names as hold all
# mechanisms of every model.
DISTINCT = _one_of_each(MODELS, _test_size_args)
_USED = {name: _mechanisms(name) for name in _one_of_each(DISTINCT, _mechanisms)}
MECHANISMS = [name for name, used in _USED.items() if not any(used < other for other in _USED.values())]
PYRAMIDS = [name for name in MECHANISMS if is_pyramid(name)]
ISOTROPIC = [name for name in DISTINCT if is_isotropic(full_size(name))]
