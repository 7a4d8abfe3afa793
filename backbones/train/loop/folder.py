"""Run folders: which one a run writes to, or which one it continues."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from backbones.train.data.datasets import data_name
from backbones.train.loop.checkpoint import CheckpointFolder
from backbones.train.options import OPTIONS, TrainOptions
from backbones.train.options.recipe import RECIPE, RecipeError, load_recipe, stored_recipe
from backbones.utils.files import write_text

_PARTS = (RECIPE, "summary.csv", "benchmark.csv", "curves.png", "tensorboard", "unreadable_*.txt")
_SAVED = ("last*.safetensors", "best*.safetensors", "checkpoint-*.safetensors", "last.state.pt", ".commit.json")
_PARTS += (*_SAVED, ".*.new", "wandb", "wandb.id")
_LOCK = ".lock"


def default_name(options: TrainOptions) -> str:
    """``<model>-<data>[-<size>]``."""
    parts = [options.model, data_name(options.dataset or options.data or options.data_dir)]
    parts += ["x".join(map(str, dict.fromkeys(options.size)))] if options.size else []
    return re.sub(r"[^\w.+-]+", "_", "-".join(parts))


def _roots(options: TrainOptions) -> list[Path]:
    """Folders of runs to continue: that of ``--output``; by default ``output`` too, where earlier clones put them."""
    roots = [Path(options.output)]
    return [*roots, Path("output")] if options.output == OPTIONS["output"].default else roots


def _has_saved(path: Path) -> bool:
    """Whether a run has saved anything into a folder."""
    return any(True for pattern in _SAVED for _ in path.glob(pattern))


def _check_resumable(path: Path) -> None:
    """Raises RecipeError for a folder with weights but no state: going on would start anew and replace them."""
    folder = CheckpointFolder(path)
    if _has_saved(path) and not folder.resumable:
        raise RecipeError(
            f"{path} holds the weights of a run but no last.state.pt to go on from: put that file back, or start a new "
            f"run from them with --initial-checkpoint and another --experiment (or --overwrite, which deletes them)."
        )


def folder_to_resume(options: TrainOptions) -> Path | None:
    """The run that ``--resume`` means; None when ``auto`` finds none that has saved anything, so that a new one starts.

    ``auto`` is the folder of ``--experiment``, else the latest run of the same model and data under ``--output``.

    Raises:
        RecipeError: When a named run is not there, or its state is missing.
    """
    if not options.resume:
        return None
    if options.resume != "auto":
        path = Path(options.resume)
        path = path.parent if path.is_file() else path
        if not (path / RECIPE).exists():
            raise RecipeError(f"--resume {options.resume}: there is no run (no {path / RECIPE}).")
    else:
        path = _latest(options, _roots(options))
        if path is None or not _has_saved(path):
            return None
    _check_resumable(path)
    return path


def _latest(options: TrainOptions, roots: Sequence[Path]) -> Path | None:
    """The latest run of the experiment, or of the default name, numbered or not."""
    if options.experiment:
        found = [root / options.experiment for root in roots]
    else:
        name = re.escape(default_name(options)) + r"(-\d+)?"
        found = [path for root in roots for path in root.glob("*") if re.fullmatch(name, path.name)]
    found = [path for path in found if (path / RECIPE).exists()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def read_recipe(folder: Path, asked: str | None = None) -> dict[str, Any]:
    """The stored recipe of a run.

    Raises:
        RecipeError: When it cannot be read, or is another than the one that is asked for.
    """
    values = stored_recipe(folder)
    if asked is not None and not _same_recipe(asked, values.get("recipe")):
        started = f"--recipe {values['recipe']}" if values.get("recipe") else "no recipe"
        raise RecipeError(
            f"{folder} was started with {started}, so it cannot go on with --recipe {asked}: leave --recipe out, or "
            "start a new run with another --experiment."
        )
    return values


def _same_recipe(asked: str, stored: str | None) -> bool:
    if asked == stored or stored is None:
        return asked == stored
    try:
        return load_recipe(asked) == load_recipe(stored)
    except RecipeError:  # the stored name means nothing here
        return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Path]:
    """Holds a run folder for this process alone. The system lets go of it when the process dies.

    The lock is one of fcntl, which child processes do not inherit: a loader process that outlives a killed run for
    some seconds does not keep it.

    Raises:
        RecipeError: When another process holds the folder.
    """
    while True:
        file = open(path / _LOCK, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                holder = file.read().strip()
                file.close()
                raise RecipeError(
                    f"{path} is in use by another run{f' ({holder})' if holder else ''}: wait until it ends, or choose "
                    "another --experiment."
                ) from None
            # A file system without locks: nothing to hold.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path / _LOCK).st_ino == os.fstat(file.fileno()).st_ino:
                break
        file.close()  # its holder has deleted it since it was opened
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield path
    finally:
        (path / _LOCK).unlink(missing_ok=True)
        file.close()


def check_new(options: TrainOptions) -> None:
    """Makes sure that a new run may have the folder of ``--experiment``.

    Raises:
        RecipeError: When it names a run that has saved something already, and ``--overwrite`` is not given.
    """
    root = Path(options.output)
    path = root / options.experiment if options.experiment else root
    while not path.exists():
        path = path.parent
    if not path.is_dir() or not os.access(path, os.W_OK):
        raise RecipeError(f"Cannot write to {path}: choose another --output.")
    if not options.experiment or options.overwrite:
        return
    path = root / options.experiment
    if _has_saved(path):
        _check_resumable(path)
        raise RecipeError(
            f"{path} holds a run already: continue it with --resume auto, start anew with --overwrite, or choose "
            "another --experiment."
        )


@contextlib.contextmanager
def new_folder(options: TrainOptions) -> Iterator[Path]:
    """The folder of a new run, for this process alone inside the block.

    It is that of ``--experiment``, else the default name, numbered if it is taken. ``--resume auto`` takes the latest
    one again when its run has saved nothing. What an earlier run left in it is deleted.

    Raises:
        RecipeError: When ``--experiment`` names a run that has saved something already, or one in use.
    """
    root, number = Path(options.output), 1
    name = options.experiment or default_name(options)
    path = root / name
    if options.experiment:
        path.mkdir(parents=True, exist_ok=True)
    elif options.resume == "auto" and (latest := _latest(options, [root])) is not None and not _has_saved(latest):
        path = latest
    else:
        root.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                path.mkdir()
                break
            except FileExistsError:
                number += 1
                path = root / f"{name}-{number}"
    with locked(path):
        check_new(options)
        if (path / RECIPE).exists() or _has_saved(path):
            _delete_run(path)
        yield path


def _delete_run(path: Path) -> None:
    """Deletes what a run wrote, and nothing else."""
    for pattern in _PARTS:
        for found in path.glob(pattern):
            shutil.rmtree(found) if found.is_dir() else found.unlink()


def write_recipe(path: Path, options: TrainOptions, derived: dict[str, Any]) -> None:
    """Writes the resolved recipe: all options, then what was derived (which replaces options left open)."""
    kept = {key: value for key, value in options.values().items() if key not in ("resume", "overwrite")}
    text = yaml.safe_dump(kept | derived, sort_keys=False, allow_unicode=True, width=120)
    write_text(path / RECIPE, text)
