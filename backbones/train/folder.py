"""Run folders: which one a run writes to, or which one it continues."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from backbones.train.checkpoint import CheckpointFolder
from backbones.train.data import data_name
from backbones.train.options import TrainOptions
from backbones.train.recipe import RecipeError, write_yaml

RECIPE = "recipe.yaml"
_PARTS = (RECIPE, "summary.csv", "benchmark.csv", "curves.png", "tensorboard", "unreadable_*.txt")
_PARTS += ("last*.safetensors", "best*.safetensors", "last.state.pt", ".*.new", ".commit.json")


def default_name(options: TrainOptions) -> str:
    """``<model>-<data>[-<size>]``."""
    parts = [options.model, data_name(options.dataset or options.data or options.data_dir)]
    parts += [str(options.img_size)] if options.img_size else []
    return re.sub(r"[^\w.+-]+", "_", "-".join(parts))


def _runs(options: TrainOptions) -> list[Path]:
    """Folders under the default name, oldest first."""
    root, name = Path(options.output), default_name(options)
    found = [path for path in root.glob(f"{name}*") if re.fullmatch(rf"{re.escape(name)}(-\d+)?", path.name)]
    return sorted((path for path in found if path.is_dir()), key=lambda path: path.stat().st_mtime)


def folder_to_resume(options: TrainOptions) -> Path | None:
    """The run that ``--resume`` means; None when ``auto`` finds none, so that a new run starts.

    ``auto`` is the folder of ``--experiment``, else the latest run of the same model and data under ``--output``.

    Raises:
        RecipeError: When a named run is not there.
    """
    if not options.resume:
        return None
    if options.resume != "auto":
        path = Path(options.resume)
        path = path.parent if path.is_file() else path
        if not (path / RECIPE).exists():
            raise RecipeError(f"--resume {options.resume}: there is no run (no {path / RECIPE}).")
        return path
    if options.experiment:
        path = Path(options.output) / options.experiment
        return path if (path / RECIPE).exists() else None
    runs = [path for path in _runs(options) if (path / RECIPE).exists()]
    return runs[-1] if runs else None


def read_recipe(folder: Path) -> dict[str, Any]:
    """The stored recipe of a run.

    Raises:
        RecipeError: When it cannot be read.
    """
    try:
        values = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"Cannot read {folder / RECIPE}: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{folder / RECIPE} is not a recipe.")
    return values


def new_folder(options: TrainOptions) -> Path:
    """Creates the folder of a new run: that of ``--experiment``, else the default name, numbered if it is taken.

    Raises:
        RecipeError: When ``--experiment`` names a run that has checkpoints already.
    """
    root = Path(options.output)
    if options.experiment:
        path = root / options.experiment
        if options.overwrite and (path / RECIPE).exists():
            _delete_run(path)
        elif path.exists() and CheckpointFolder(path).resumable:
            raise RecipeError(
                f"{path} holds a run already: continue it with --resume auto, start anew with --overwrite, or choose "
                "another --experiment."
            )
        path.mkdir(parents=True, exist_ok=True)
        return path
    name, number = default_name(options), 1
    while True:
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            os.makedirs(path)
            return path
        except FileExistsError:
            number += 1


def _delete_run(path: Path) -> None:
    """Deletes what a run wrote, and nothing else."""
    for pattern in _PARTS:
        for found in path.glob(pattern):
            shutil.rmtree(found) if found.is_dir() else found.unlink()


def write_recipe(path: Path, options: TrainOptions, derived: dict[str, Any]) -> None:
    """Writes the resolved recipe: all options, then what was derived (which replaces options left open)."""
    kept = {key: value for key, value in options.values().items() if key not in ("resume", "overwrite")}
    write_yaml(path / RECIPE, kept | derived)
