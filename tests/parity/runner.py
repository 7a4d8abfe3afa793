"""Runs a case: builds the model, loads the authors' weights, computes, and measures the errors.

Sources that a row's `outputs` may name, `x` being the image batch:

- `logits`: `model(x)`; `pre_logits`: what the classifier's linear layer takes; `final`: `model.forward_features(x)`;
- `intermediates`: `model.forward_intermediates(x)`, the usual source of a classifier's `features`;
- `raw`, `normed`: `model.forward_stages(x)` before and after the norms between stages;
- `maps`: all that a features-only or dense model returns, the usual source of its `features`;
- the path of a module: its output in a pass for `intermediates` or `maps`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn

from backbones.checkpoints import renamed
from backbones.features import DenseBackbone
from tests.parity.cases import Case
from tests.parity.parity import make_input, official_state_dict, worst_error

INPUTS = ("input", "inputs", "dtype", "scaled_parameters", "names", "scale")
USUAL = {
    "logits": "logits",
    "features_dense": "normed",
    "normed": "normed",
    "raw_features": "raw",
    "stages": "raw",
}


@dataclass(frozen=True)
class Run:
    """One input of a fixture, and what is needed to compute on it.

    Attributes:
        case: The row.
        fixture: The whole fixture.
        expected: The run: input and what the authors' code computed.
        model: The model with the authors' weights, in evaluation mode; None for a module.
    """

    case: Case
    fixture: Mapping[str, Any]
    expected: Mapping[str, Any]
    model: nn.Module | None = None

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.case.dtype or self.expected.get("dtype", "float32"))

    @cached_property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The tensors that the run states, in its precision."""
        scale = self.expected.get("scale", 1.0)
        given = self.expected.get("inputs") or [{"shape": self.expected["input"], "scale": scale}]
        return tuple(make_input(**one).to(self.dtype) for one in given)

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The authors' state dict, with the run's `scaled_parameters`, without what the row drops."""
        state = official_state_dict(self.fixture)
        for key, factor in dict(self.expected.get("scaled_parameters") or {}).items():
            state[key] *= factor
        drop = self.case.drop
        return {key: value for key, value in state.items() if not (drop and re.search(drop, key))}

    def build(self) -> nn.Module:
        """The case's model, loaded as published weights of its form are."""
        case = self.case
        if case.form == "dense":
            model = DenseBackbone(case.model, **case.args)
            model.load_state_dict(model.convert_checkpoint(self.state))
        elif case.form == "reparameterized":
            model = reparameterize_model(timm.create_model(case.model, **case.args).eval())
            model.load_state_dict(renamed(self.state, case.model))
        else:
            overlay = {"state_dict": renamed(self.state, case.model)}
            if "num_classes" in case.args:
                overlay["num_classes"] = case.args["num_classes"]
            args = {**case.args, "features_only": True} if case.form == "features_only" else case.args
            model = timm.create_model(case.model, pretrained=True, pretrained_cfg_overlay=overlay, **args)
        return model.eval().to(self.dtype)

    @property
    def trunk(self) -> nn.Module:
        """The model of the zoo inside `model`."""
        if self.case.form == "dense":
            return self.model.trunk
        return self.model.model if self.case.form == "features_only" else self.model

    def outputs(self) -> dict[str, Any]:
        """Everything that the case compares, by key of the run."""
        found = {}
        if self.case.function:
            module = import_module(f"tests.parity.fixtures.{self.case.family}.outputs")
            found.update(getattr(module, self.case.function)(self))
        if self.model is not None:
            main = "intermediates" if self.case.form in ("classifier", "reparameterized") else "maps"
            keys = [key for key in self.compared if key not in found]
            usual = {**USUAL, "features": main, **self.case.outputs}
            specs = {key: usual[key] for key in keys if usual.get(key) is not None}
            sources = _Sources(self, main, {path for spec in specs.values() for path in _names(spec)})
            found.update({key: sources.resolve(spec, self.expected[key]) for key, spec in specs.items()})
        return found

    @property
    def compared(self) -> list[str]:
        """Keys of the run that the case compares."""
        return list(self.case.only or (key for key in self.expected if key not in (*INPUTS, *self.case.inputs)))


def _names(spec: Any) -> Iterator[str]:
    """Names and module paths in a row's source."""
    if isinstance(spec, str):
        yield spec
    else:
        for one in spec.values() if isinstance(spec, Mapping) else spec:
            yield from _names(one)


class _Sources:
    """Outputs of a model by source; each is computed once."""

    def __init__(self, run: Run, main: str, names: set[str]) -> None:
        self.run, self.main, self.known = run, main, {}
        hooks = {name: run.trunk.get_submodule(name) for name in names if not hasattr(self, f"_{name}")}
        if "logits" in names:
            self["logits"]  # before there are hooks, as they keep modules from being fused
        handles = [
            module.register_forward_hook(lambda *args, name=name: self.known.update({name: args[2]}))
            for name, module in hooks.items()
        ]
        if hooks:
            self[main]
        for handle in handles:
            handle.remove()

    def __getitem__(self, name: str) -> Any:
        if name not in self.known:
            self.known[name] = getattr(self, f"_{name}")()
        return self.known[name]

    def _logits(self) -> torch.Tensor:
        return self.run.model(self.run.inputs[0])

    def _pre_logits(self) -> torch.Tensor:
        return self.run.model.forward_head(self.run.model.forward_features(self.run.inputs[0]), pre_logits=True)

    def _final(self) -> torch.Tensor:
        return self.run.model.forward_features(self.run.inputs[0])

    def _intermediates(self) -> Sequence[torch.Tensor]:
        indices = None if self.run.case.indices is None else list(self.run.case.indices)
        return self.run.model.forward_intermediates(self.run.inputs[0], indices=indices, intermediates_only=True)

    def _maps(self) -> Sequence[torch.Tensor]:
        x, model = self.run.inputs[0], self.run.model
        maps = model(x)
        if self.run.case.form == "dense":
            assert [one.shape[1] for one in maps] == model.channels
            for one, reduction in zip(maps, model.reductions, strict=True):
                assert all(abs(reduction * a - b) < reduction for a, b in zip(one.shape[2:], x.shape[2:]))
        return maps

    def _raw(self) -> Sequence[torch.Tensor]:
        return self.run.trunk.forward_stages(self.run.inputs[0])

    def _normed(self) -> Sequence[torch.Tensor]:
        return self.run.trunk.forward_stages(self.run.inputs[0], normed=True)

    def resolve(self, spec: Any, expected: Any) -> Any:
        """What the source `spec` gives for a key of the run."""
        if isinstance(spec, str):
            return self[spec]
        if isinstance(spec, Mapping) and is_digest(expected):
            ((module, source),) = spec.items()
            return self.run.trunk.get_submodule(module)(self.resolve(source, expected))
        if isinstance(spec, Mapping):
            return {key: self.resolve(one, expected[key]) for key, one in spec.items()}
        parts = [self.resolve(one, expected) for one in spec]
        return [tensor for part in parts for tensor in (part if isinstance(part, (list, tuple)) else [part])]


def is_digest(value: Any) -> bool:
    """Whether a part of a run is what `digest` or `logits_digest` returns."""
    return isinstance(value, Mapping) and ("samples" in value or "head" in value)


def errors(expected: Any, found: Any, outliers: int = 0, label: str = "") -> Iterator[tuple[str, float]]:
    """Label and error of every tensor or number in a part of a run, infinite where the structure differs."""
    if is_digest(expected):
        yield label, worst_error(expected, found, outliers)
    elif isinstance(expected, Mapping):
        if set(expected) != set(found):
            yield f"{label}: {sorted(set(expected) ^ set(found))}", math.inf
            return
        for key, value in expected.items():
            yield from errors(value, found[key], outliers, f"{label}.{key}")
    elif isinstance(expected, list) and any(map(is_digest, expected)):
        if len(expected) != len(found):
            yield f"{label}: {len(found)} tensors for {len(expected)}", math.inf
            return
        for i, (value, tensor) in enumerate(zip(expected, found)):
            yield from errors(value, tensor, outliers, f"{label}[{i}]")
    else:
        a, b = np.asarray(expected), np.asarray(found)
        if a.shape != b.shape:
            yield label, math.inf
        elif a.dtype.kind == "f":
            yield label, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-12))
        else:
            yield label, 0.0 if (a == b).all() else math.inf


def run_case(case: Case) -> dict[str, dict[str, float]]:
    """Error of every output by label, by key of the runs; `parameters` are compared too, where they are counted."""
    fixture, model, found = case.load(), None, {}
    with torch.inference_mode(not case.gradients):
        for expected in fixture["runs"]:
            run = Run(case, fixture, expected)
            if case.form != "module":
                if model is None or "scaled_parameters" in expected:
                    model = run.build()
                run = Run(case, fixture, expected, model)
            outputs = run.outputs()
            count = outputs.get("parameters") if model is None else sum(p.numel() for p in model.parameters())
            stated = fixture["parameters"] if case.parameters is None else case.parameters
            if count is not None and (case.form != "features_only" or case.parameters is not None):
                found["parameters"] = {"parameters": float(abs(count - stated))}
            for key in run.compared:
                if key not in outputs:
                    raise AssertionError(f"{case}: nothing is compared with {key!r}: add it to outputs, inputs or only")
                of_key = found.setdefault(key, {})
                for label, error in errors(expected[key], outputs[key], case.outliers, key):
                    of_key[label] = max(error, of_key.get(label, 0.0))
    return found


def beyond(case: Case, found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The errors of `run_case` that the row does not allow."""
    limits = case.tolerance
    return {
        label: error
        for key, of_key in found.items()
        for label, error in of_key.items()
        if not error < (1 if key == "parameters" else limits.get(key, limits[""]))
    }
