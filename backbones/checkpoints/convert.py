"""From a published file to tensors under a model's own names, and whether they fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

from backbones.checkpoints.errors import WeightsError
from backbones.checkpoints.reading import averaged, first_line, read_checkpoint, some, tensors_of
from backbones.features import DenseBackbone
from backbones.models import family_of
from backbones.models.registry import Family, Weights

#: What a family's conversion may meet in a file that is not its own.
CONVERSION_ERRORS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


class Entry(NamedTuple):
    """A row of the zoo's table of weights."""

    name: str
    model: str
    tag: str
    family: Family
    weights: Weights


def entry(name: str) -> Entry:
    """The row of `name`: a model with or without tag (then its default one).

    Raises:
        WeightsError: There is no such model or tag.
    """
    model, _, tag = name.partition(".")
    try:
        family = family_of(model)
    except KeyError:
        raise WeightsError(f"The zoo has no model {model!r}: `tools/checkpoint.py list` shows all.") from None
    tags = family.variants[model].weights
    tag = tag or next(iter(tags))
    if tag not in tags:
        raise WeightsError(f"{model} has no weights tagged {tag!r}: its tags are {', '.join(tags)}.")
    return Entry(f"{model}.{tag}", model, tag, family, tags[tag])


@dataclass(frozen=True)
class Misfit:
    """How a state dict fails to fit a model: the keys of each kind."""

    missing: Sequence[str]
    unexpected: Sequence[str]
    shapes: Sequence[str]
    types: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes or self.types)

    def __str__(self) -> str:
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.shapes),
            ("of another type", self.types),
        )
        return ", ".join(f"{len(keys)} keys {kind} ({some(keys)})" for kind, keys in kinds if keys)


def misfit(
    model: nn.Module, state: Mapping[str, torch.Tensor], head_dropped: bool = False, strict: bool = False
) -> Misfit:
    """How `state` fails to fit `model`, beyond what timm adapts.

    Args:
        model: With timm's `pretrained_cfg`, or without.
        state: Under the model's names.
        head_dropped: The classifier will not be loaded. It also is not where the model has another number of classes
            than its `pretrained_cfg` says; another number of image channels is adapted.
        strict: Nothing is adapted or dropped.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    weights = model.state_dict()
    own = {key: value.shape for key, value in weights.items()}
    classes = getattr(model, "num_classes", None)
    head_dropped = head_dropped or (classes is not None and classes != cfg.get("num_classes", classes))
    channels = (cfg.get("input_size") or (3,))[0]
    first = cfg.get("first_conv") or ()
    first = [f"{conv}.weight" for conv in ((first,) if isinstance(first, str) else first)]
    adapted = not strict and getattr(model, "in_chans", channels) != channels
    # Training heads end in a module of the classifier's name, too.
    leaf = f".{(cfg.get('classifier') or 'head.fc').rpartition('.')[2]}."

    def ignored(key: str) -> bool:
        if strict:
            return False
        if key.endswith(".num_batches_tracked") and key not in state:
            return True
        if not head_dropped or leaf not in key:
            return False
        return key.startswith(cfg.get("classifier") or "head.fc") or (key in own and own[key][0] == classes)

    def differs(key: str) -> bool:
        mine, theirs = own[key], state[key].shape
        if adapted and key in first and theirs[1:2] == (channels,):
            mine, theirs = mine[:1] + mine[2:], theirs[:1] + theirs[2:]
        return mine != theirs

    def kind(tensor: torch.Tensor) -> str:
        return f"{tensor.dtype} without numbers" if tensor.is_meta else str(tensor.dtype)

    both = [key for key in own if key in state and not ignored(key)]
    return Misfit(
        missing=[key for key in own if key not in state and not ignored(key)],
        unexpected=[key for key in state if key not in own and not ignored(key)],
        shapes=[
            f"{key}: {tuple(state[key].shape)} in the file, {tuple(own[key])} in the model"
            for key in both
            if differs(key)
        ],
        types=[
            f"{key}: {kind(state[key])} in the file, {kind(weights[key])} in the model"
            for key in both
            if (weights[key].is_floating_point() and not state[key].is_floating_point())
            or (state[key].is_meta and not weights[key].is_meta)
        ],
    )


def fitted(
    checkpoint: Mapping[str, Any],
    model: nn.Module,
    name: str,
    source: str = "The given state dict",
    head_dropped: bool = False,
) -> dict[str, torch.Tensor]:
    """A checkpoint as a state dict of a model of the zoo.

    Args:
        checkpoint: The authors' or ours.
        model: Gives names and shapes; may be on the meta device.
        name: Of the model.
        source: Where the checkpoint comes from, for the message.
        head_dropped: See `misfit`.

    Raises:
        WeightsError: It does not fit; the message says how, and which model it fits.
    """
    family = family_of(name)
    tensors = _published(checkpoint, family, source)
    try:
        state = family.convert_checkpoint(tensors, model)
        if family.dense.only:  # no file of a classifier has these
            own = model.state_dict()
            state = {**{key: own[key] for key in own if re.match(family.dense.only, key)}, **state}
        problem: Misfit | str = misfit(model, state, head_dropped)
    except CONVERSION_ERRORS as error:
        problem = first_line(error)
    if problem:
        raise WeightsError(f"{source} does not fit {name}: {problem}; {_likeliest(tensors, source, name)}.")
    return state


def _published(checkpoint: Mapping[str, Any], family: Family, source: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint that its authors' results come from."""
    return tensors_of(averaged(dict(checkpoint)) if family.averaged else checkpoint, source)


def _likeliest(tensors: Mapping[str, torch.Tensor], source: str, name: str) -> str:
    """What the file is, in words; `name` is what it was taken for."""
    from backbones.checkpoints.identification import describe, identify  # which builds on this module

    found = identify(tensors, source)
    if any((one.name.partition(".")[0], one.score) == (name, 1.0) for one in found):
        return f"the file is a {describe(found)} as published, so leave out arguments that change the model"
    return f"this looks like {describe(found)}" if found else "it looks like no model of the zoo"


def renamed(checkpoint: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Weights under timm's names, where timm builds the model `name` and the zoo knows the authors' names of it.

    Those of other models are returned as they are: the zoo's own rename them on loading.
    """
    try:
        family = family_of(name)
    except KeyError:
        return dict(checkpoint)
    return family.rename(checkpoint) if family.built_by_timm else dict(checkpoint)


def classes_of(state: Mapping[str, torch.Tensor], classifier: str = "head.fc") -> int:
    """Classes of the head in a converted state dict, 0 if it has none."""
    weight = state.get(f"{classifier}.weight")
    return 0 if weight is None or not weight.ndim else weight.shape[0]


def convert(checkpoint: Mapping[str, Any], name: str, source: str, any_head: bool = False) -> dict[str, torch.Tensor]:
    """A checkpoint as what the store keeps of the weights `name`: everything, under our names, checked.

    Args:
        checkpoint: The authors' or ours.
        name: Model with or without tag.
        source: Where the checkpoint comes from, for the message.
        any_head: Take any number of classes, not only the tag's.

    Raises:
        WeightsError: It does not fit, or holds numbers that are not finite.
    """
    row = entry(name)
    tensors = _published(checkpoint, row.family, source)
    args = {}
    if any_head or row.weights.num_classes is None:
        shapeless = timm.create_model(row.name, device="meta")
        with suppress(*CONVERSION_ERRORS):  # what they come from is told below
            args["num_classes"] = classes_of(row.family.convert_checkpoint(tensors, shapeless), row.family.classifier)
            args["pretrained_cfg_overlay"] = {"num_classes": args["num_classes"]}
    try:
        model = timm.create_model(row.name, device="meta", **row.family.complete, **args)
        state = fitted(tensors, model, row.model, source)
    except WeightsError:
        if not row.family.complete:
            raise
        state = fitted(tensors, timm.create_model(row.name, device="meta", **args), row.model, source)
    # isfinite() knows some types of 8 bits only.
    numbers = ((key, value.float() if value.itemsize == 1 else value) for key, value in state.items())
    broken = [key for key, value in numbers if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise WeightsError(f"{source} holds numbers that are not finite ({some(broken)}): get a good copy of it.")
    return state


def try_out(state: Mapping[str, torch.Tensor], name: str) -> None:
    """Load converted weights into the real model and run one image through it.

    Raises:
        WeightsError: What comes out is not finite.
    """
    classes = classes_of(state, entry(name).family.classifier)
    overlay = {"state_dict": dict(state), "num_classes": classes}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    image = torch.randn(1, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not model(image).isfinite().all():
            raise WeightsError(f"{name} computes numbers that are not finite with these weights: get a good copy.")


def load_into(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint file, the authors' or ours, into a model of the zoo or a `DenseBackbone`.

    Raises:
        WeightsError: It does not fit.
    """
    checkpoint = read_checkpoint(path)
    if isinstance(model, DenseBackbone):
        state = fitted_dense(checkpoint, model, str(path))
    else:
        state = fitted(checkpoint, model, model.pretrained_cfg["architecture"], str(path))
    model.load_state_dict(state)


def fitted_dense(
    checkpoint: Mapping[str, Any], backbone: DenseBackbone, source: str = "The given state dict"
) -> dict[str, torch.Tensor]:
    """A dense-prediction checkpoint, or a whole detector or segmentor, as a state dict of `backbone`.

    Raises:
        WeightsError: It does not fit; the message says how, and which model it fits.
    """
    tensors = tensors_of(checkpoint, source)
    name = backbone.name.partition(".")[0]
    try:
        state = backbone.convert_checkpoint(tensors)
        problem: Misfit | str = misfit(backbone, state)
    except CONVERSION_ERRORS as error:
        problem = first_line(error)
    if problem:
        raise WeightsError(f"{source} does not fit the dense {name}: {problem}; {_likeliest(tensors, source, name)}.")
    return state
