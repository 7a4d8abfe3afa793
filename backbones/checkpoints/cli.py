"""The command line of `tools/checkpoint.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from backbones.checkpoints.convert import CONVERSION_ERRORS, Entry, entry
from backbones.checkpoints.diff import diff
from backbones.checkpoints.errors import WeightsError
from backbones.checkpoints.export import export
from backbones.checkpoints.identification import identify
from backbones.checkpoints.reading import first_line, read_checkpoint, shown, tensors_of
from backbones.checkpoints.store import ENVIRONMENT, Store, default_folder
from backbones.checkpoints.table import in_store, readme, rows
from backbones.checkpoints.weights import convert_file, get, load
from backbones.models import list_known

_SHOWN = 10  # differences of each kind


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Pretrained weights and the local store of them.")
    parser.add_argument("--store", metavar="DIR", help=f"the store (default: ${ENVIRONMENT} or {default_folder()})")
    commands = parser.add_subparsers(dest="command", required=True)

    sub = commands.add_parser("list", help="every published set of weights, and whether the store has it")
    sub.add_argument("filter", nargs="?", default="", help="wildcard on the model's name")

    sub = commands.add_parser("get", help="fetch weights into the store")
    sub.add_argument("names", nargs="+", metavar="NAME", help="model, model.tag or a wildcard on either")
    sub.add_argument("--force", action="store_true", help="fetch again what is there")

    sub = commands.add_parser("convert", help="convert an authors' file into the store")
    sub.add_argument("file", metavar="FILE")
    sub.add_argument("--model", required=True, metavar="NAME", help="model or model.tag")

    sub = commands.add_parser("verify", help="check the sha256 of what is in the store, and load it")
    sub.add_argument("names", nargs="*", metavar="NAME", help="model.tag (default: all in the store)")

    sub = commands.add_parser("identify", help="tell which model a file belongs to")
    sub.add_argument("file", metavar="FILE")

    sub = commands.add_parser("diff", help="compare two files; exit code 1 if they differ")
    sub.add_argument("a", metavar="A")
    sub.add_argument("b", metavar="B")
    sub.add_argument("--model", metavar="NAME", help="compare under the names of this model")

    sub = commands.add_parser("export", help="write a folder that timm and the Hugging Face Hub take")
    sub.add_argument("folder", metavar="DIR")
    sub.add_argument("--model", required=True, metavar="NAME", help="model or model.tag")
    sub.add_argument("--checkpoint", metavar="FILE", help="weights of your own instead of the published ones")

    sub = commands.add_parser("readme", help="write checkpoints/README.md anew")
    sub.add_argument("file", nargs="?", default="checkpoints/README.md", metavar="FILE")
    return parser


def _list(args: argparse.Namespace, store: Store) -> int:
    table = Table(box=None, pad_edge=False)
    for heading in ("weights", "parameters", "image", "top-1", "licence", "from", "in store"):
        table.add_column(
            heading, no_wrap=True, justify="right" if heading in ("parameters", "image", "top-1") else "left"
        )
    for row in rows(list_known(args.filter)):
        table.add_row(*row.cells(), row.kind, in_store(row, store))
    if not table.row_count:
        raise WeightsError(f"No model matches {args.filter!r}.")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    print(f"store: {store.folder}")
    return 0


def _matching(pattern: str) -> list[str]:
    if not any(sign in pattern for sign in "*?["):
        return [entry(pattern).name]
    found = list_known(pattern, pretrained=True)
    if not found:
        raise WeightsError(f"No weights match {pattern!r}: `tools/checkpoint.py list` shows all.")
    return found


def _get(args: argparse.Namespace, store: Store) -> int:
    failed = 0
    for name in dict.fromkeys(name for pattern in args.names for name in _matching(pattern)):
        try:
            print(get(name, store, force=args.force))
        except WeightsError as error:
            _complain(error)
            failed += 1
    return 2 if failed else 0


def _convert(args: argparse.Namespace, store: Store) -> int:
    print(convert_file(args.file, args.model, store))
    return 0


def _verify(args: argparse.Namespace, store: Store) -> int:
    names = [entry(name).name for name in args.names] or store.names()
    failed = 0
    for name in names:
        try:
            row = entry(name)
            if store.check(row.name) is None:
                raise WeightsError(
                    f"{name} is not in the store {store.folder} as a file with a record: `get` or `convert` it first."
                )
            load(row.name, store)
            print(f"ok      {name}")
        except (WeightsError, OSError) as error:
            print(f"FAILED  {name}")
            _complain(error)
            failed += 1
    print(f"{len(names) - failed} of {len(names)} in {store.folder} are as recorded and load")
    return 1 if failed else 0


def _identify(args: argparse.Namespace, store: Store) -> int:
    found = identify(read_checkpoint(args.file), args.file)
    if not found:
        raise WeightsError(f"{args.file} looks like no model of the zoo.")
    for one in found:
        print(f"{one.name:32}{one.form:16}{100 * one.score:5.1f} % of the keys agree")
    return 0


def _converted(side: dict[str, torch.Tensor], row: Entry, model: nn.Module, path: str) -> dict[str, torch.Tensor]:
    try:
        return row.family.convert_checkpoint(side, model)
    except CONVERSION_ERRORS as error:
        raise WeightsError(f"{path} does not fit {row.model}: {first_line(error)}.") from error


def _diff(args: argparse.Namespace, store: Store) -> int:
    sides = [tensors_of(read_checkpoint(path), path) for path in (args.a, args.b)]
    if args.model:
        row = entry(args.model)
        model = timm.create_model(row.name, device="meta", **row.family.complete)
        sides = [_converted(side, row, model, path) for side, path in zip(sides, (args.a, args.b), strict=True)]
    found = diff(*sides)
    for title, lines in (
        (f"only in {args.a}", found.only_a),
        (f"only in {args.b}", found.only_b),
        ("different shapes", [f"{key}: {a} and {b}" for key, (a, b) in found.shapes.items()]),
        (
            "different numbers",
            [f"{key}: by up to {large:.3g} ({100 * part:.3g} %)" for key, (large, part) in found.numbers.items()],
        ),
    ):
        if lines:
            print(f"{len(lines)} {title}")
            print(*(f"  {shown(line)}" for line in lines[:_SHOWN]), *["  ..."] * (len(lines) > _SHOWN), sep="\n")
    print(f"{found.equal} equal")
    return 1 if found else 0


def _export(args: argparse.Namespace, store: Store) -> int:
    print(export(args.model, args.folder, args.checkpoint, store))
    return 0


def _readme(args: argparse.Namespace, store: Store) -> int:
    Path(args.file).write_text(readme(), encoding="utf-8")
    return 0


_COMMANDS = {
    "list": _list,
    "get": _get,
    "convert": _convert,
    "verify": _verify,
    "identify": _identify,
    "diff": _diff,
    "export": _export,
    "readme": _readme,
}


def _complain(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 where `verify` or `diff` found something; 2 for an error, told in one sentence.
    """
    args = _parser().parse_args(argv)
    try:
        return _COMMANDS[args.command](args, Store(args.store))
    except (WeightsError, OSError) as error:
        _complain(error)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run it again to go on from there", file=sys.stderr)
        return 130
