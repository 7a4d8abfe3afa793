"""Which model of the zoo a file belongs to, told by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import timm
import torch
from torch import nn

from backbones.checkpoints.convert import CONVERSION_ERRORS
from backbones.checkpoints.reading import tensors_of
from backbones.features import DenseBackbone
from backbones.models import family_of, list_known
from backbones.models.registry import Family

_UNKNOWN = 0.3  # share of keys below which nothing is recognised
_ALIKE = 0.3  # families whose names agree this much less than the best are not looked at
_ROUGH = 0.1  # nor, in a family, models that agree this much less than its best before shapes are converted
_CLOSE = 0.05  # classification scores this near the best are compared in their dense form
Shapes = Mapping[str, tuple]


class Candidate(NamedTuple):
    """A model that a file may belong to.

    Attributes:
        name: Model, with tag where the model's tags differ in shapes.
        form: "classification" or "dense".
        score: Share of all keys (of file and model) that agree in name and shape; 1 is a perfect fit.
    """

    name: str
    form: str
    score: float


@dataclass(frozen=True)
class _Layout:
    """Names and shapes of the models `names`, which all have the same."""

    names: tuple[str, ...]
    family: Family
    shapes: Shapes
    numel: int


def _meta(name: str) -> nn.Module:
    return timm.create_model(name, device="meta", **family_of(name).complete)


def _shapes(state: Mapping[str, torch.Tensor], family: Family) -> dict[str, tuple]:
    """Shapes by key, without what follows from the number of classes and of image channels, and without counters."""
    found = {}
    for key, value in state.items():
        shape = tuple(value.shape)
        if key.endswith((f"{family.classifier}.weight", f"{family.classifier}.bias")):
            shape = shape[1:]
        elif key.endswith(tuple(f"{conv}.weight" for conv in family.first_convs)):
            shape = shape[:1] + shape[2:]
        if not key.endswith(".num_batches_tracked"):
            found[key] = shape
    return found


def _numel(state: Mapping[str, torch.Tensor]) -> int:
    return sum(value.numel() for value in state.values())


@cache
def _layouts(model: str) -> tuple[_Layout, ...]:
    """One layout for each group of tags of a model that share it."""
    family = family_of(model)
    groups: dict[tuple, list[str]] = {}
    numels = {}
    for tag in family.variants[model].weights:
        state = _meta(f"{model}.{tag}").state_dict()
        key = tuple(sorted(_shapes(state, family).items()))
        groups.setdefault(key, []).append(f"{model}.{tag}")
        numels[key] = _numel(state)
    return tuple(
        _Layout(tuple(names) if len(groups) > 1 else (model,), family, dict(key), numels[key])
        for key, names in groups.items()
    )


def _pattern(key: str) -> str:
    """A key without its numbers: much the same for all sizes of a family."""
    return re.sub(r"\d+", "#", key)


@cache
def _patterns(model: str) -> frozenset[str]:
    return frozenset(_pattern(key) for key in _meta(model).state_dict())


def _likely_families(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[Family, list[str]]]:
    """Families, with their models, whose names are most like the file's, so that few models need to be built."""
    families: dict[int, list[str]] = {}
    for model in list_known():
        families.setdefault(id(family_of(model)), []).append(model)
    examples = {_pattern(key): key for key in reversed(tensors)}
    some = {key: tensors[key] for key in examples.values()}
    likeness = {}
    for one, models in families.items():
        file, own = {_pattern(key) for key in family_of(models[0]).rename(some)}, _patterns(models[0])
        likeness[one] = len(file & own) / max(len(file | own), 1)
    best = max(likeness.values(), default=0.0)
    for one, models in families.items():
        if likeness[one] > 0 and likeness[one] >= best - _ALIKE:
            yield family_of(models[0]), models


def _agreement(file: Shapes, model: Shapes) -> float:
    same = sum(model.get(key) == shape for key, shape in file.items())
    return same / max(len(file.keys() | model.keys()), 1)


def _scored(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[float, _Layout]]:
    """How well the file agrees with every layout that it may be one of."""
    for family, models in _likely_families(tensors):
        renamed = family.rename(tensors)
        shapes = _shapes(renamed, family)
        rough = [(_agreement(shapes, layout.shapes), layout) for model in models for layout in _layouts(model)]
        best = max(score for score, _ in rough)
        for score, layout in rough:
            if family.convert is not None and score < best - _ROUGH:
                continue
            if family.convert is not None:
                try:
                    converted = family.convert(dict(renamed), _meta(layout.names[0]))
                except CONVERSION_ERRORS:
                    continue
                score = _agreement(_shapes(converted, family), layout.shapes)
            yield score, layout


def identify(checkpoint: Mapping[str, Any], source: str = "") -> list[Candidate]:
    """Models that a checkpoint belongs to, authors' or ours, best first.

    NAT and DiNAT share their layouts, so more than one may fit equally; the file's name then decides the order.

    Args:
        checkpoint: With or without wrapper.
        source: File name, a hint only.

    Returns:
        The best candidates, all of the same score; empty where nothing is similar.

    Raises:
        WeightsError: There are no tensors in it.
    """
    tensors = {key: torch.empty_like(value, device="meta") for key, value in tensors_of(checkpoint, source).items()}
    numel = _numel(tensors)
    scored = list(_scored({key.removeprefix("model."): value for key, value in tensors.items()}))  # as in a wrapper
    best = max((score for score, _ in scored), default=0.0)
    ranked = [
        (score, -abs(layout.numel - numel), Candidate(name, "classification", score))
        for score, layout in scored
        for name in layout.names
    ]
    if best < 1:
        near = [name for score, layout in scored if score >= best - _CLOSE for name in layout.names]
        ranked += _dense_candidates(tensors, near)
    top = max(((score, size) for score, size, _ in ranked), default=(0.0, 0))
    if top[0] < _UNKNOWN:
        return []
    found = [candidate for score, size, candidate in ranked if (score, size) == top]
    return sorted(found, key=lambda candidate: _likeness_of_name(candidate.name, source))


def _dense_candidates(tensors: Mapping[str, torch.Tensor], names: list[str]) -> Iterator[tuple[float, int, Candidate]]:
    """Score, closeness in size, and candidate of each model's dense form that can take the file."""
    for name in names:
        backbone = DenseBackbone(name, device="meta")
        own = backbone.state_dict()
        try:
            state = backbone.convert_checkpoint(tensors)
        except CONVERSION_ERRORS:
            continue
        score = _agreement(_shapes(state, backbone.family), _shapes(own, backbone.family))
        yield score, -abs(_numel(own) - _numel(tensors)), Candidate(name, "dense", score)


def _likeness_of_name(name: str, source: str) -> int:
    """0 where the file `source` is named like the model or a published file of it, 1 where almost so, else 2."""
    model, _, tag = name.partition(".")
    stem = Path(source).name.partition(".")[0]
    weights = family_of(model).variants[model].weights
    names = {model, *(Path(urlsplit(w.url).path).stem for t, w in weights.items() if w.url and tag in ("", t))}
    if stem in names:
        return 0
    return 1 if stem and any(one.startswith(stem) or stem.startswith(one) for one in names if one) else 2


def describe(candidates: list[Candidate]) -> str:
    """Names of equal candidates in words."""
    dense = " (dense-prediction form)" if candidates[0].form == "dense" else ""
    return " or ".join(candidate.name for candidate in candidates) + dense
