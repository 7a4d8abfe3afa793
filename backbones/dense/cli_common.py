"""What the command lines of detection and segmentation share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from rich.table import Table

from backbones.checkpoints import WeightsError
from backbones.dense.config import load_config
from backbones.dense.data_check import problems
from backbones.dense.errors import DenseError
from backbones.dense.ops import OperatorsError
from backbones.dense.options import OptionsAction
from backbones.dense.reading import Reader
from backbones.utils import terminal
from backbones.utils.files import InputError, WriteError
from backbones.utils.processes import leave_processes
from backbones.utils.terminal import console, counting_bar


def parser_of(name: str, description: str | None, work_dir: bool = True) -> argparse.ArgumentParser:
    """A parser with what changes a config."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("config", metavar="CONFIG", help="config file, such as configs/detection/demo.py")
    group = parser.add_argument_group("the config")
    group.add_argument("--data-root", metavar="DIR", help="folder of the data, for the config's own")
    group.add_argument(
        "--classes", nargs="+", metavar="NAME", help="the data's classes, in the order of their annotations"
    )
    group.add_argument(
        "--cfg-options", nargs="+", action=OptionsAction, default={}, metavar="KEY=VALUE", help="other values of it"
    )
    if work_dir:
        group.add_argument("--work-dir", metavar="DIR", help="where the run goes (default: runs/<config>)")
    return parser


def read_config(args: argparse.Namespace) -> Config:
    """The config that the command line names, changed as it says."""
    return load_config(args.config, args.cfg_options, args.data_root, args.classes, getattr(args, "work_dir", None))


def say(text: str) -> None:
    """A message for the user, on stderr; of many processes, the first speaks."""
    if is_main_process():
        terminal.say(text)


def check_output(path: str | Path, flag: str, folder: bool = True) -> None:
    """Make sure, before anything is computed, that a folder or file can be written.

    Raises:
        DenseError: It cannot.
    """
    path = Path(path).expanduser().absolute()
    if not folder and path.is_dir():
        raise DenseError(f"{path} is a folder: name a file with {flag}.")
    wanted = path if folder else path.parent
    there = next(place for place in (wanted, *wanted.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise DenseError(f"{there} is no folder, so that nothing can be written to {path}: name another with {flag}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DenseError(f"{there} cannot be written to: name another with {flag}.")


def add_data_check(parser: argparse.ArgumentParser) -> None:
    """The flag that `check_data` answers."""
    parser.add_argument(
        "--check-data",
        action="store_true",
        help="only look at all data, images and maps included, and report every problem; exit code 1 if there is one",
    )


def check_data(cfg: Config, splits: Sequence[str]) -> int:
    """Reports every problem of the data on stdout; returns the exit code: 1 if there is one."""
    remarks: list[str] = []
    count = 0
    with counting_bar() as bar:

        def progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
            return bar.track(items, total, description=what)

        for problem in problems(cfg, splits, Reader(whole=True, progress=progress), remarks):
            count += 1
            console.print(problem, markup=False, soft_wrap=True)
    for remark in remarks:
        say(remark)
    say(f"{count or 'no'} problem{'s' * (count != 1)} in the data of {', '.join(splits)}")
    return 1 if count else 0


def show_rows(title: str, rows: Sequence[tuple[str, Any]]) -> None:
    """A result of names and values, on stdout."""
    console.print(title, style="bold", markup=False, soft_wrap=True)
    table = Table(show_header=False)
    table.add_column("name")
    table.add_column("value", justify="right")
    for name, value in rows:
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    console.print(table)


def guarded(run: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None) -> int:
    """Runs a command line; what the user can mend ends it with one sentence and exit code 2."""

    def work(argv: Sequence[str] | None) -> int | None:
        try:
            code = run(argv)
        except (BrokenPipeError, WriteError):
            raise
        except OSError as error:
            what, reason = error.filename or "A file", f"{error.strerror or error}".lower()
            raise DenseError(f"{what} cannot be read or written ({reason}): see to it, or name another.") from error
        leave_processes()
        return code

    mistakes = (DenseError, WeightsError, OperatorsError, InputError, WriteError)
    return terminal.guarded(work, argv, mistakes, "Interrupted. A training goes on with --resume.")
