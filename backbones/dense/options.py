"""Whether `--cfg-options` change what a config has: their keys, and what kind of values stand there."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import mmengine.registry
import mmengine.runner
from mmengine.config import Config, DictAction
from mmengine.registry import Registry
from torch.utils.data import DataLoader

from backbones.dense.backbone import Backbone
from backbones.dense.errors import DenseError, some
from backbones.models import family_of
from backbones.utils.text import nearest

#: Keys that mmengine takes of parts that are no arguments of a class, by the part's key.
_TAKEN = {
    r"": {
        *inspect.signature(mmengine.runner.Runner.__init__).parameters,
        *("custom_imports", "sync_bn", "find_unused_parameters", "model_wrapper_cfg", "compile", "tta_model"),
        *("activation_checkpointing", "efficient_conv_bn_eval", "tta_pipeline"),
    },
    r"(train|val|test)_dataloader": {
        *inspect.signature(DataLoader.__init__).parameters,
        *("num_batch_per_epoch", "disable_subprocess_warning"),
    },
    r"default_hooks": {"runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"},
    r"env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    r"env_cfg\.mp_cfg": {"mp_start_method", "opencv_num_threads"},
    r"randomness": {"seed", "diff_rank_seed", "deterministic"},
    r"auto_scale_lr": {"base_batch_size", "enable"},
    r"train_cfg": {
        *inspect.signature(mmengine.runner.EpochBasedTrainLoop.__init__).parameters,
        *inspect.signature(mmengine.runner.IterBasedTrainLoop.__init__).parameters,
        "by_epoch",
    },
    r"optim_wrapper": {"constructor", "paramwise_cfg", "dtype", "loss_scale", "use_fsdp"},  # with --amp too
    r"(default_hooks\.\w+|custom_hooks\.\d+)": {"priority"},
    r"param_scheduler(\.\d+)?": {"by_epoch", "convert_to_iter_based"},
}
#: Whose keys are all known, although they are of no type.
_CLOSED = r"|(train|val|test)_dataloader|env_cfg(\.mp_cfg)?|randomness|auto_scale_lr|train_cfg"
_ALWAYS = {"type", "_delete_", "_scope_"}
_ALIKE = 0.8  # of names, from which on a new key is taken for a slip where others may be read


class OptionsAction(DictAction):
    """mmengine's `KEY=VALUE ...`, with one sentence for what cannot be read so."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Sequence[str], *rest: Any) -> None:
        for text in values:
            if not re.match(r"[^=\s]+=", text):
                raise DenseError(f"--cfg-options {text!r} is no KEY=VALUE: write it like model.backbone.model=nat_m.")
        try:
            super().__call__(parser, namespace, values, *rest)
        except (AssertionError, ValueError, SyntaxError) as error:
            raise DenseError(f"--cfg-options {' '.join(values)} cannot be read ({error}): correct it.") from error


def check_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Make sure that options change a config rather than add to it what nothing reads.

    Args:
        cfg: The config, without the options.
        options: Values by dotted key.

    Raises:
        DenseError: A key is unknown where it stands, or its value is of another kind than the config's.
    """
    for key, value in options.items():
        part: Any = dict(cfg.items())
        path: list[str] = []
        for name in key.split("."):
            if isinstance(part, list | tuple) and name.isdigit() and int(name) < len(part):
                part = part[int(name)]
            elif not isinstance(part, Mapping):
                break  # mmengine tells what is wrong with these
            elif name in part:
                part = part[name]
            else:
                _check_new(".".join(path), part, name, cfg.get("default_scope"), f"--cfg-options {key}")
                break
            path.append(name)
        else:
            _check_kind(key, part, value)
            if path[-1] == "type" and isinstance(part, str) and isinstance(value, str):
                _check_type(key, part, value, cfg.get("default_scope"))


def _check_new(parent: str, part: Mapping, name: str, scope: str | None, where: str) -> None:
    """Refuse a key that is new to a part of a config, and that the part does not take."""
    typed = isinstance(part.get("type"), str)
    arguments, takes_any = _arguments(part, scope) if typed else (set(), True)
    taken = set().union(*(names for pattern, names in _TAKEN.items() if re.fullmatch(pattern, parent)))
    known = {*part, *taken, *arguments} - {"self", "args", "kwargs"}
    if name in known | _ALWAYS:
        return
    closed = not takes_any or (not typed and re.fullmatch(_CLOSED, parent) is not None)
    near = nearest(name, known, count=1, cutoff=0.6 if closed else _ALIKE)
    if not closed and not near:
        return
    remedy = f"did you mean {near[0]}?" if near else f"it takes {some(sorted(known))}."
    raise DenseError(f"{where}: {parent or 'the config'} has no {name}: {remedy}")


def _check_kind(key: str, old: Any, value: Any) -> None:
    numeric = isinstance(old, int | float) and not isinstance(old, bool)
    if numeric and isinstance(value, str | Mapping):
        raise DenseError(f"--cfg-options {key}: it is a number, such as {old}, not {value!r}.")
    if isinstance(old, Mapping) and not isinstance(value, Mapping | None):
        raise DenseError(f"--cfg-options {key}: it is a group of options ({some(list(old))}), not {value!r}: set one.")
    if isinstance(old, list | tuple) and isinstance(value, str | bool):
        raise DenseError(f"--cfg-options {key}: it is a list, not {value!r}: write [A,B,...].")


def _check_type(key: str, old: str, value: str, scope: str | None) -> None:
    """Refuse a type that no registry has, where there is one that has the config's own."""
    if _found(value, scope):
        return
    for registry, _ in _found(old, scope):
        near = nearest(value, names_of(registry), count=1, cutoff=0.6)
        remedy = f"did you mean {near[0]}?" if near else f"it is {old} in the config."
        raise DenseError(f"--cfg-options {key}: there is no {registry.name} {value}: {remedy}")


def names_of(registry: Registry) -> set[str]:
    """All that a root registry and those below it hold."""
    return {name for part in (registry, *registry.children.values()) for name in part.module_dict}


def _found(kind: str, scope: str | None) -> list[tuple[Registry, Any]]:
    """The root registries that know a type, each with what it stands for."""
    found = []
    for root in registries():
        with contextlib.suppress(ImportError, KeyError), root.switch_scope_and_registry(scope=scope) as registry:
            target = registry.get(kind)
            if target is not None:
                found.append((root, target))
    return found


def registries() -> list[Registry]:
    """mmengine's root registries."""
    return [value for value in vars(mmengine.registry).values() if isinstance(value, Registry)]


def _arguments(part: Mapping, scope: str | None) -> tuple[set[str], bool]:
    """The arguments of what a part's `type` names, and whether it takes any, as far as it is known."""
    targets = [target for _, target in _found(part["type"], scope)]
    if Backbone in targets:  # hands on to the model
        with contextlib.suppress(KeyError, AttributeError):
            targets.append(family_of(part["model"].partition(".")[0]).model)
    found: set[str] = set()
    takes_any = True
    for target in targets:
        arguments, takes_any = arguments_of(target)
        found |= arguments
    return found, takes_any


def arguments_of(target: Any) -> tuple[set[str], bool]:
    """The arguments of a function, or of a class and those bases that it hands others on to; whether it takes any."""
    found: set[str] = set()
    handed_on = False
    for owner in target.__mro__ if inspect.isclass(target) else (target,):
        if owner is object:
            break
        if inspect.isclass(owner) and "__init__" not in vars(owner):
            continue
        try:
            parameters = inspect.signature(owner.__init__ if inspect.isclass(owner) else owner).parameters.values()
        except (TypeError, ValueError):
            return found, True
        found |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        handed_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not handed_on:
            break
    return found, handed_on
