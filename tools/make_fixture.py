#!/usr/bin/env python
"""Make a parity fixture: what an authors' implementation computes when every weight is filled by a fixed rule.

    python tools/make_fixture.py --source ../VAN-Classification --import models.van:van_b0 --stub mmseg mmcv \\
        --args '{"num_classes": 1000}' --input 2x3x224x224 --features block1.2 block2.2 block3.4 block4.1 \\
        --out tests/parity/fixtures/van/van_b0.json.gz

Runs with numpy and torch alone, in whatever environment the authors' code needs. What that code imports and does not
need, such as the registries of OpenMMLab, is replaced by `--stub`. The file gets a row in the `cases.yaml`
beside it (see `tests/parity/cases.py`).
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.parity import parity


class FixtureError(Exception):
    """The fixture cannot be made; the message is one sentence."""


class _Anything:
    """Stands for everything in a stubbed package: decorates a class by returning it, and is `nn.Module` as a base."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and not kwargs and isinstance(args[0], (type, Callable)) else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __mro_entries__(self, bases: tuple) -> tuple[type, ...]:
        return () if nn.Module in bases else (nn.Module,)


class _Stubs(MetaPathFinder, Loader):
    """Finds every module of the named packages, each with `_Anything` under any name."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = tuple(packages)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        inside = any(name == package or name.startswith(f"{package}.") for package in self.packages)
        return ModuleSpec(name, self, is_package=True) if inside else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = _Anything().__getattr__


def build(source: Path, target: str, args: dict[str, Any], stubs: Sequence[str] = ()) -> nn.Module:
    """The model that `module:factory` of the checkout makes.

    Raises:
        FixtureError: There is no such module or factory, or it does not take the arguments.
    """
    module_name, _, factory = target.partition(":")
    if not source.is_dir():
        raise FixtureError(f"{source} is not a folder: --source takes the root of the authors' checkout.")
    if not factory:
        raise FixtureError(f"--import {target} names no factory: write module:factory.")
    sys.path.insert(0, str(source))
    sys.meta_path.insert(0, _Stubs(stubs))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise FixtureError(f"{module_name} needs {error.name}: install it, or pass --stub {error.name}.") from error
    except Exception as error:
        raise FixtureError(f"{module_name} cannot be imported: {type(error).__name__}: {error}.") from error
    if not hasattr(module, factory):
        near = difflib.get_close_matches(factory, dir(module), 3)
        raise FixtureError(f"{module_name} has no {factory}: {_did_you_mean(near)}")
    try:
        model = getattr(module, factory)(**args)
    except Exception as error:
        raise FixtureError(f"{target} fails with --args {json.dumps(args)}: {error}.") from error
    if not isinstance(model, nn.Module):
        raise FixtureError(f"{target} returns no torch.nn.Module but {type(model).__name__}: name another factory.")
    return model


def _did_you_mean(near: Sequence[str]) -> str:
    return f"did you mean {', '.join(near)}?" if near else "see the authors' code."


def as_map(value: Any, layout: str, height: int, width: int, name: str = "the output") -> torch.Tensor:
    """A module's output as (B, C, H, W), or as it is where `layout` is "".

    Args:
        value: Tensor, or a sequence that starts with one.
        layout: "nhwc"; "tokens", (B, N, C) in rows, of a grid whose sides are those of the input over a power of two,
            rounded up or down; or "cls", the same after a class token.
        height, width: Of the input.
        name: For messages.
    """
    tensor = value[0] if isinstance(value, (list, tuple)) and value else value
    if not isinstance(tensor, torch.Tensor):
        raise FixtureError(f"{name} is no tensor but {type(tensor).__name__}: record another module.")
    if not layout:
        return tensor
    if tensor.ndim != (4 if layout == "nhwc" else 3):
        raise FixtureError(f"{name} has the shape {tuple(tensor.shape)}, which is not {layout}: correct its layout.")
    if layout == "nhwc":
        return tensor.permute(0, 3, 1, 2)
    tensor = tensor[:, 1:] if layout == "cls" else tensor
    grids = [(side(height / 2**i), side(width / 2**i)) for i in range(8) for side in (int, ceil)]
    for h, w in grids:
        if h * w == tensor.shape[1]:
            return tensor.transpose(1, 2).unflatten(2, (h, w))
    raise FixtureError(f"{name} has {tensor.shape[1]} tokens, which are no grid of a {height}x{width} input.")


def _keep(seen: dict[str, Any], name: str, module: nn.Module, inputs: tuple, output: Any) -> None:
    seen[name] = output


@torch.no_grad()
def record(model: nn.Module, shape: Sequence[int], features: Sequence[str], scale: float = 1.0) -> dict[str, Any]:
    """One run: digests of the logits, and of the outputs of the modules in `features` (or of all maps returned)."""
    modules, seen, dtype = dict(model.named_modules()), {}, next(model.parameters()).dtype
    handles = []
    for feature in features:
        name = feature.partition(":")[0]
        if name not in modules:
            near = difflib.get_close_matches(name, list(modules), 3)
            raise FixtureError(f"The model has no module {name}: {_did_you_mean(near)}")
        handles.append(modules[name].register_forward_hook(partial(_keep, seen, name)))
    try:
        output = model(parity.make_input(shape, scale=scale).to(dtype))
    except Exception as error:
        raise FixtureError(f"The model fails on the input {'x'.join(map(str, shape))}: {error}.") from error
    finally:
        for handle in handles:
            handle.remove()
    run: dict[str, Any] = {"input": list(shape)}
    if scale != 1:
        run["inputs"] = [{"shape": list(shape), "seed": 0, "scale": scale}]
    if dtype != torch.float32:
        run["dtype"] = str(dtype).removeprefix("torch.")
    maps = []
    for feature in features:
        name, _, layout = feature.partition(":")
        if name not in seen:
            raise FixtureError(f"The model does not call {name}: record another module.")
        maps.append(as_map(seen[name], layout, *shape[-2:], name=name))
    if isinstance(output, torch.Tensor) and output.ndim == 2:
        run["logits"] = parity.logits_digest(output)
    elif not maps:
        maps = [as_map(one, "", 0, 0) for one in (output if isinstance(output, (list, tuple)) else [output])]
    if maps:
        run["features"] = [parity.digest(one) for one in maps]
    return run


def origin(source: Path) -> str:
    """Address and commit of a checkout, or its folder's name."""
    asked = (["remote", "get-url", "origin"], ["rev-parse", "HEAD"])
    told = [subprocess.run(["git", "-C", str(source), *words], capture_output=True, text=True) for words in asked]
    found = [one.stdout.strip() for one in told if one.returncode == 0]
    return " ".join(found) if len(found) == 2 else source.resolve().name


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(x\d+)+", text):
        raise argparse.ArgumentTypeError(f"{text} is no shape such as 2x3x224x224")
    return tuple(map(int, text.split("x")))


def _feature(text: str) -> str:
    if text.partition(":")[2] not in ("", "nhwc", "tokens", "cls"):
        raise argparse.ArgumentTypeError(f"{text}: a layout is nhwc, tokens or cls")
    return text


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text} is no JSON object")
    return value


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, metavar="DIR", help="root of the authors' checkout")
    parser.add_argument("--import", dest="target", required=True, metavar="MODULE:FACTORY", help="what makes the model")
    parser.add_argument("--args", type=_arguments, default={}, metavar="JSON", help="the factory's keyword arguments")
    parser.add_argument(
        "--input", type=_shape, nargs="+", required=True, metavar="BxCxHxW", help="one run for each; standard normal"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the inputs")
    parser.add_argument(
        "--features",
        type=_feature,
        nargs="+",
        default=(),
        metavar="NAME[:LAYOUT]",
        help="modules whose outputs are recorded, brought to (B, C, H, W) from nhwc, from tokens (B, N, C), or from "
        "cls, tokens after a class token; by default the maps that the model returns",
    )
    parser.add_argument("--double", action="store_true", help="compute in float64, for models that sort or route")
    parser.add_argument("--keep", metavar="REGEX", help="parameters that are constants and keep their values")
    parser.add_argument("--stub", nargs="+", default=(), metavar="PACKAGE", help="packages that are not needed")
    parser.add_argument("--variant", help="the authors' name of the model; the factory's by default")
    parser.add_argument("--notes", default="", help="what a reader must know: which maps, what was changed or stubbed")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .json.gz")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    args = parser.parse_args(argv)
    try:
        if args.out.suffixes[-2:] != [".json", ".gz"]:
            raise FixtureError(f"{args.out} must end in .json.gz.")
        if args.out.exists() and not args.overwrite:
            raise FixtureError(f"{args.out} is there already: pass --overwrite to replace it.")
        model = build(args.source, args.target, args.args, args.stub).eval()
        kind = parity.fill_model(model, args.keep)
        model.to(torch.float64 if args.double else torch.float32)
        runs = [record(model, shape, args.features, args.scale) for shape in args.input]
        parity.save(
            args.out,
            source=origin(args.source),
            variant=args.variant or args.target.rpartition(":")[2],
            config=args.args,
            notes=args.notes,
            model=model.float(),
            kind=kind,
            runs=runs,
        )
    except (FixtureError, OSError) as error:
        raise SystemExit(str(error)) from None
    count = sum(p.numel() for p in model.parameters())
    print(f"{args.out}: {count:,} parameters, {len(runs)} run{'s' * (len(runs) > 1)}, {', '.join(runs[0])}")


if __name__ == "__main__":
    main()
