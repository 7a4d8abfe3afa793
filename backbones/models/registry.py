"""From a family's table of variants and weights to timm's registry."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models import is_model as _timm_has
from torch import nn

_PACKAGE = "backbones"
_FAMILY_OF: dict[str, Family] = {}


@dataclass(frozen=True)
class Weights:
    """One published set of weights of a variant.

    Attributes:
        url: Direct download address, or None where `hf_hub_id` or `page` names the source.
        hf_hub_id: Hugging Face Hub repository.
        page: Address of a page that only a person can download from.
        sha256: Hex digest of the published file, where known.
        input_size: Side of the square image, pixels.
        reduction: Stride of the last map, where it is not the family's.
        crop_pct: Centre crop of the resized image in evaluation.
        crop_mode: timm's crop mode ("center", "squash").
        mean, std: Input normalisation, RGB in [0, 1].
        num_classes: Classes of the file's head; None where they are not stated.
        top1: Published ImageNet-1K top-1 accuracy, percent.
        args: Constructor arguments that come with these weights (window or dilations of another resolution).
        notes: Further facts, one sentence each.
    """

    url: str | None = None
    hf_hub_id: str | None = None
    page: str | None = None
    sha256: str | None = None
    input_size: int = 224
    reduction: int | None = None
    crop_pct: float = 0.875
    crop_mode: str = "center"
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD
    num_classes: int | None = 1000
    top1: float | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """A registered model: constructor arguments and its weights by tag; the first tag is the default."""

    args: Mapping[str, Any]
    weights: Mapping[str, Weights]


@dataclass(frozen=True)
class DenseForm:
    """How the authors' detectors and segmentors run the models of a paper, and what their checkpoints call it.

    Attributes:
        norm: Output norms, see `DenseBackbone`; None for none.
        keys: Regex of the output norms in the authors' dense checkpoints; group 1 is the output's index, where
            `Family.key_map` does not already call them `out_norms.<index>`.
        eps: Epsilon of those norms, and of `Stage.norm` in dense models.
        args: Constructor arguments that differ from the classifiers'.
        only: Regex of the model's keys that belong to `forward_dense` alone, so that no ImageNet file has them.
    """

    norm: str | None = "layer"
    keys: str | None = None
    eps: float = 1e-5
    args: Mapping[str, Any] = field(default_factory=dict)
    only: str | None = None


@dataclass(frozen=True)
class Family:
    """What the models of a paper have in common.

    Attributes:
        model: The model class.
        variants: Model name to `Variant`.
        paper_name, paper_ids, origin_url, license: As in timm's pretrained cfg; `license` is that of the weights.
        key_map: `(regex, replacement)` pairs, applied in order to every key of an authors' checkpoint. Our own keys
            must pass through unchanged. A classifier that is called `head` needs no pair.
        drop_keys: Regex of authors' keys that hold computed buffers.
        averaged: Where authors' files hold a moving average beside the raw weights, it is what they publish.
        dense: The authors' dense models.
        convert: Further conversion `(state_dict, model) -> state_dict` after the keys are renamed.
        tiny: Constructor arguments that shrink any variant to test size.
        complete: Constructor arguments of a model with every part that the published files hold (training heads).
        first_conv, classifier: Names of the image convolution (of all, where several see the image) and the classifier.
        reduction: Stride of the last map.
        sized: The model takes `img_size`, which its windows follow (timm's `fixed_input_size`), and yet runs at any.
        interpolation: Resizing of evaluation images.
        built_by_timm: timm has the models: none is registered; the family knows the authors' files and dense form.
    """

    model: type[nn.Module]
    variants: Mapping[str, Variant]
    paper_name: str
    paper_ids: str
    origin_url: str
    license: str | None
    key_map: Sequence[tuple[str, str]] = ()
    drop_keys: str | None = None
    averaged: bool = False
    dense: DenseForm = DenseForm()
    convert: Callable[[dict[str, torch.Tensor], nn.Module], dict[str, torch.Tensor]] | None = None
    tiny: Mapping[str, Any] = field(default_factory=dict)
    complete: Mapping[str, Any] = field(default_factory=dict)
    first_conv: str | Sequence[str] = "stem.conv1"
    classifier: str = "head.fc"
    reduction: int = 32
    sized: bool = False
    interpolation: str = "bicubic"
    built_by_timm: bool = False

    def pretrained_cfg(self, weights: Weights) -> dict[str, Any]:
        """timm's pretrained cfg of `weights`."""
        side = -(-weights.input_size // (weights.reduction or self.reduction))
        top1 = () if weights.top1 is None else (f"published ImageNet-1K top-1: {weights.top1}",)
        return {
            "url": weights.url or weights.page or "",
            "hf_hub_id": weights.hf_hub_id,
            "num_classes": 1000 if weights.num_classes is None else weights.num_classes,
            "input_size": (3, weights.input_size, weights.input_size),
            "pool_size": (side, side),
            "fixed_input_size": self.sized,
            "crop_pct": weights.crop_pct,
            "crop_mode": weights.crop_mode,
            "interpolation": self.interpolation,
            "mean": weights.mean,
            "std": weights.std,
            "first_conv": self.first_conv,
            "classifier": self.classifier,
            "license": self.license,
            "origin_url": self.origin_url,
            "paper_name": self.paper_name,
            "paper_ids": self.paper_ids,
            "notes": (*top1, *weights.notes),
        }

    @property
    def first_convs(self) -> tuple[str, ...]:
        """Names of the image convolutions."""
        return (self.first_conv,) if isinstance(self.first_conv, str) else tuple(self.first_conv)

    def rename(self, state_dict: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """An authors' (or our own) checkpoint under our names; shapes and form may still be the authors'."""
        out = {}
        for key, value in unwrap_checkpoint(state_dict).items():
            if self.drop_keys and re.search(self.drop_keys, key):
                continue
            for pattern, replacement in self.key_map:
                key = re.sub(pattern, replacement, key)
            out[key if self.built_by_timm else re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", key)] = value
        return out

    def convert_checkpoint(self, state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
        """An authors' (or our own) checkpoint as a state dict of `model`."""
        out = self.rename(state_dict)
        return self.convert(out, model) if self.convert else out


def renames(prefix: str, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pairs of `Family.key_map` for modules, old to new dotted name, that follow what the regex `prefix` matches."""
    return [(rf"({prefix}){re.escape(old)}\.", rf"\g<1>{new}.") for old, new in names.items()]


def unwrap_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict inside a checkpoint: below its usual wrapper key, without `module.` and `_orig_mod.` prefixes.

    Entries that no string names are left out. Of a detector or segmentor (keys that start with `backbone.`) only the
    backbone is kept, without that prefix.
    """
    for key in ("state_dict", "model", "net", "net_E", "state_dict_ema", "model_ema"):
        inner = checkpoint.get(key)
        if isinstance(inner, Mapping):
            checkpoint = inner
            break
    named = ((key, value) for key, value in checkpoint.items() if isinstance(key, str))
    state_dict = {re.sub(r"^(module\.|_orig_mod\.)+", "", key): value for key, value in named}
    backbone = {key[9:]: value for key, value in state_dict.items() if key.startswith("backbone.")}
    return backbone or state_dict


def _tag_of(variant: Variant, pretrained_cfg: Any) -> str:
    """The weights' tag that a `pretrained_cfg` argument of `timm.create_model` (tag, cfg, dict or None) names."""
    if isinstance(pretrained_cfg, Mapping):
        pretrained_cfg = pretrained_cfg.get("tag")
    elif not isinstance(pretrained_cfg, str):
        pretrained_cfg = getattr(pretrained_cfg, "tag", None)
    return pretrained_cfg or next(iter(variant.weights))


WeightsSource = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
_weights_source: WeightsSource | None = None  # set by the package, which knows the store


def set_weights_source(source: WeightsSource) -> WeightsSource:
    """Have `source(name, kwargs)` turn a call with `pretrained=True` into the arguments that name the weights."""
    global _weights_source
    _weights_source = source
    return source


def _make_entry_point(name: str, family: Family, variant: Variant) -> Callable[..., nn.Module]:
    def entry_point(pretrained: bool = False, **kwargs) -> nn.Module:
        weights = variant.weights.get(_tag_of(variant, kwargs.get("pretrained_cfg")))
        args = {**variant.args, **(weights.args if weights else {}), **kwargs}
        if pretrained:
            args.update(_weights_source(name, kwargs))
        return build_model_with_cfg(
            family.model,
            name,
            pretrained,
            feature_cfg={"out_indices": None, "feature_cls": "getter"},
            **args,
        )

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__module__ = _PACKAGE
    entry_point.__doc__ = f"{name} of {family.paper_name} (arXiv {family.paper_ids.removeprefix('arXiv:')})."
    return entry_point


def register_family(family: Family) -> Family:
    """Register every variant with timm, as a model of the module `backbones`, unless timm has it.

    Raises:
        ValueError: A name is already taken, by timm or by another family; or timm has no such model, though it should.
    """
    if family.built_by_timm:
        for name in family.variants:
            if not _timm_has(name):
                raise ValueError(f"timm has no model {name!r}: update timm")
            _FAMILY_OF[name] = family
        return family
    package = sys.modules[_PACKAGE]
    cfgs = package.__dict__.setdefault("default_cfgs", {})
    for name, variant in family.variants.items():
        if _timm_has(name):
            raise ValueError(f"model name {name!r} is already registered with timm; choose another name")
        cfgs.update(
            generate_default_cfgs({f"{name}.{tag}": family.pretrained_cfg(w) for tag, w in variant.weights.items()})
        )
        register_model(_make_entry_point(name, family, variant))
        _FAMILY_OF[name] = family
    return family


def family_of(name: str) -> Family:
    """The family of a registered model name (with or without tag)."""
    return _FAMILY_OF[name.split(".", 1)[0]]


def list_models(filter: str = "", pretrained: bool = False) -> list[str]:
    """Names of the zoo's models.

    Args:
        filter: Wildcard, as in `timm.list_models`.
        pretrained: List `name.tag` of every published set of weights instead.
    """
    return timm.list_models(filter, module=_PACKAGE, pretrained=pretrained)


def list_known(filter: str = "", pretrained: bool = False) -> list[str]:
    """As `list_models`, with the models that timm builds and the zoo has the authors' files and dense form of."""
    served = [name for name, family in _FAMILY_OF.items() if family.built_by_timm]
    if pretrained:
        served = [f"{name}.{tag}" for name in served for tag in family_of(name).variants[name].weights]
    served = [name for name in served if not filter or fnmatch(name, filter)]
    return list_models(filter, pretrained) + sorted(served)
