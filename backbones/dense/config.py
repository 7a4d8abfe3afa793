"""Configs of detectors and segmentors: reading them, pointing them at one's own data, and checking both beforehand."""

from __future__ import annotations

import colorsys
import difflib
import inspect
import json
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image, UnidentifiedImageError

from backbones.dense.config_table import COLUMNS, config_paths

SPLITS = ("train", "val", "test")
IGNORED = 255  # label of pixels that count for nothing
_SHOWN = 8  # names in a message
_MAPS_READ = 16  # segmentation maps looked into before a run


class DenseError(ValueError):
    """A mistake in a config, its data or its options; the message is one sentence with the remedy."""


def load_config(
    path: str | Path,
    options: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    classes: Sequence[str] | None = None,
    work_dir: str | Path | None = None,
) -> Config:
    """Read a config of mmdet or mmseg and apply what the command line changes of it.

    Args:
        path: The config file.
        options: Values by dotted key, as `--cfg-options` gives them.
        data_root: Folder of the data, for the config's own.
        classes: Names of the classes, for the config's own; see `set_classes`.
        work_dir: Where the run goes; `output/<name of the config>` by default.

    Raises:
        DenseError: The config cannot be read, or has not what is to be changed.
        OperatorsError: mmcv's operators do not work.
    """
    path = Path(path)
    if not path.is_file():
        known = {config.stem: config for task in COLUMNS for config in config_paths(task)}
        alike = difflib.get_close_matches(path.stem, known, n=3)
        hint = f"did you mean {', '.join(str(_short(known[name])) for name in alike)}?" if alike else "see configs/"
        raise DenseError(f"There is no config {path}: {hint}")
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(dict(options or {}))
    except (SyntaxError, KeyError, AttributeError, TypeError, OSError, IndexError) as error:
        raise DenseError(f"Cannot read config {path} with these options ({_line(error)}): correct them.") from error
    if "model" not in cfg or cfg.get("default_scope") not in ("mmdet", "mmseg"):
        raise DenseError(f'{path} is no config of mmdet or mmseg: it needs model and default_scope="mmdet" or "mmseg".')
    if data_root is not None:
        set_data_root(cfg, data_root)
    if classes:
        set_classes(cfg, classes)
    cfg.work_dir = str(work_dir or cfg.get("work_dir") or Path("output") / path.stem)
    return cfg


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def datasets(cfg: Config, splits: Sequence[str] = SPLITS) -> Iterator[tuple[str, Any]]:
    """Every data set of the splits with the key it stands at, out of the data sets that wrap it."""

    def inner(key: str, dataset: Any) -> Iterator[tuple[str, Any]]:
        if "dataset" in dataset:
            yield from inner(f"{key}.dataset", dataset.dataset)
        elif "datasets" in dataset:
            for i, part in enumerate(dataset.datasets):
                yield from inner(f"{key}.datasets.{i}", part)
        else:
            yield key, dataset

    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        if loader:
            yield from inner(f"{split}_dataloader.dataset", loader.dataset)


def set_data_root(cfg: Config, root: str | Path) -> None:
    """Read all data, and what the evaluators compare with, from another folder of the same layout."""
    old = {dataset.data_root for _, dataset in datasets(cfg) if dataset.get("data_root")}
    for _, dataset in datasets(cfg):
        dataset.data_root = str(root)

    def moved(value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                value[key] = moved(value[key])
        elif isinstance(value, list):
            return [moved(item) for item in value]
        elif isinstance(value, str):
            for prefix in old:
                if value.startswith(prefix):
                    return str(Path(root) / value.removeprefix(prefix).lstrip("/"))
        return value

    for split in ("val", "test"):
        if cfg.get(f"{split}_evaluator"):
            cfg[f"{split}_evaluator"] = moved(cfg[f"{split}_evaluator"])


def set_classes(cfg: Config, classes: Sequence[str]) -> None:
    """Give data and heads other classes: names in the order of the annotations' categories or of the maps' numbers.

    Data sets of mmseg become `BaseSegDataset`, as those of a benchmark know their own classes only.

    Raises:
        DenseError: Names that repeat, or a head of things and stuff, which takes more than a list of names.
    """
    names = tuple(classes)
    if len(set(names)) != len(names):
        raise DenseError(f"The classes {', '.join(names)} repeat themselves: name each once.")
    palette = [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i * 0.618 % 1, 0.65, 0.95)) for i in range(len(names))]
    for _, dataset in datasets(cfg):
        if cfg.default_scope == "mmseg" and dataset.type != "BaseSegDataset":
            given = inspect.signature(_dataset_class(cfg, dataset.type).__init__).parameters
            for key in ("img_suffix", "seg_map_suffix", "reduce_zero_label"):
                if key in given:
                    dataset.setdefault(key, given[key].default)
            dataset.type = "BaseSegDataset"
        dataset.metainfo = dict(classes=names, palette=palette)
    for key, head in _heads(cfg.model):
        if head.get("num_stuff_classes"):
            raise DenseError(f"{key} tells things from stuff: write a config with its classes instead of --classes.")
        head["num_things_classes" if "num_things_classes" in head else "num_classes"] = len(names)
        weights = head.get("loss_cls", {}).get("class_weight")
        if isinstance(weights, list):  # one a class, and one for "no object"
            head["loss_cls"]["class_weight"] = [1.0] * len(names) + [weights[-1]]


def _dataset_class(cfg: Config, name: str) -> type:
    with DATASETS.switch_scope_and_registry(scope=cfg.default_scope) as registry:
        found = registry.get(name)
    if found is None:
        raise DenseError(f"There is no data set type {name!r} in {cfg.default_scope}: correct the config.")
    return found


def _heads(model: Any, key: str = "model") -> Iterator[tuple[str, Any]]:
    """Every part of a model that states a number of classes."""
    if isinstance(model, Mapping):
        if any(name in model for name in ("num_classes", "num_things_classes")):
            yield key, model
        for name, value in model.items():
            if name != "backbone":
                yield from _heads(value, f"{key}.{name}")
    elif isinstance(model, list | tuple):
        for i, value in enumerate(model):
            yield from _heads(value, f"{key}.{i}")


def classes_of(cfg: Config, dataset: Any) -> tuple[str, ...]:
    """Names of a data set's classes: the config's, or those that its type knows."""
    own = dataset.get("metainfo", {}).get("classes")
    return tuple(own or _dataset_class(cfg, dataset.type).METAINFO.get("classes", ()))


def check(cfg: Config, splits: Sequence[str]) -> list[str]:
    """Make sure, before anything is built, that a config's data are there and fit its heads.

    Args:
        cfg: The config.
        splits: Which data the run will read.

    Returns:
        Remarks that the user should see.

    Raises:
        DenseError: Missing files, or categories that do not match.
    """
    remarks: list[str] = []
    for key, dataset in datasets(cfg, splits):
        _check_files(key, dataset)
        names = classes_of(cfg, dataset)
        if not names:
            raise DenseError(f"{key} has no class names: give metainfo=dict(classes=(...)), or --classes.")
        _check_heads(cfg, key, names)
        if cfg.default_scope == "mmseg":
            _check_maps(key, cfg, dataset, names)
        elif "seg" not in dataset.get("data_prefix", {}):
            remarks += _check_categories(key, _under_root(dataset, dataset.ann_file), names)
    for split in {"val", "test"} & set(splits):
        evaluators = cfg.get(f"{split}_evaluator") or []
        for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
            if isinstance(evaluator.get("ann_file"), str) and not Path(evaluator.ann_file).is_file():
                raise DenseError(
                    f"{split}_evaluator.ann_file is {evaluator.ann_file}, which is not there: give that of the data, "
                    "or --data-root."
                )
    return remarks


def _under_root(dataset: Any, path: str) -> Path:
    return Path(dataset.get("data_root") or "") / path


def _check_files(key: str, dataset: Any) -> None:
    remedy = "put the data there, or name its folder with --data-root"
    if dataset.get("ann_file"):
        path = _under_root(dataset, dataset.ann_file)
        if not path.is_file():
            raise DenseError(f"{key} reads the annotations {path}, which are not there: {remedy}.")
    for what, prefix in dataset.get("data_prefix", {}).items():
        path = _under_root(dataset, prefix)
        if not path.is_dir():
            raise DenseError(f"{key} reads its {what} files from {path}, which is not a folder: {remedy}.")


def _check_heads(cfg: Config, key: str, names: tuple[str, ...]) -> None:
    for head_key, head in _heads(cfg.model):
        if "num_things_classes" in head:
            count = head["num_things_classes"] + (head.get("num_stuff_classes") or 0)
        else:
            count = head["num_classes"]
        if count != len(names):
            raise DenseError(
                f"{head_key} has {count} classes, but {key} has {len(names)} ({some(names)}): "
                "give --classes with the names of the data's classes, or make num_classes and metainfo agree."
            )


def some(names: Sequence[str], limit: int = _SHOWN) -> str:
    """The first names of a list, for a message."""
    return ", ".join(map(str, names[:limit])) + (", ..." if len(names) > limit else "")


def read_categories(path: str | Path) -> list[str]:
    """Names of the categories of a COCO file in its order, without reading its annotations, which may be large.

    Raises:
        DenseError: It is not a COCO file.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = re.search(rb'"categories"\s*:\s*\[', data)
            if found is None:
                raise DenseError(f"{path} has no list of categories: it must be a COCO file of instances.")
            size = 1 << 16
            while True:
                text = data[found.end() - 1 : found.end() - 1 + size].decode("utf-8", errors="ignore")
                try:
                    return [category["name"] for category in json.JSONDecoder().raw_decode(text)[0]]
                except json.JSONDecodeError:
                    if found.end() + size > len(data):
                        raise
                    size *= 8
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DenseError):
            raise
        raise DenseError(f"{path} is not a COCO file ({_line(error)}): write it anew.") from error


def _check_categories(key: str, path: Path, names: tuple[str, ...]) -> list[str]:
    found = read_categories(path)
    remedy = "give --classes with the names of the annotations, in their order"
    missing = [name for name in names if name not in found]
    if missing:
        raise DenseError(f"{path} has the categories {some(found)}, but not {some(missing)} of {key}: {remedy}.")
    # mmdet numbers labels in the file's order, whatever the order of the config's names.
    used = [name for name in found if name in names]
    if used != list(names):
        raise DenseError(f"{path} has the categories in the order {some(used)}, not {some(names)}: {remedy}.")
    left = [name for name in found if name not in names]
    return [f"{path}: {len(left)} of {len(found)} categories are not used ({some(left)})"] if left else []


def _check_maps(key: str, cfg: Config, dataset: Any, names: tuple[str, ...]) -> None:
    """Look into some segmentation maps for numbers that are no class."""
    defaults = inspect.signature(_dataset_class(cfg, dataset.type).__init__).parameters

    def option(name: str, default: Any) -> Any:
        return dataset.get(name, defaults[name].default if name in defaults else default)

    folder = _under_root(dataset, dataset.data_prefix.seg_map_path)
    images = _under_root(dataset, dataset.data_prefix.img_path)
    suffix, image_suffix = option("seg_map_suffix", ".png"), option("img_suffix", ".jpg")
    if not any(images.rglob(f"*{image_suffix}")):
        raise DenseError(f"{key} finds no *{image_suffix} in {images}: correct img_suffix or the folder.")
    paths = sorted(folder.rglob(f"*{suffix}"))
    if not paths:
        raise DenseError(f"{key} finds no *{suffix} in {folder}: correct seg_map_suffix or the folder.")
    from_one = bool(option("reduce_zero_label", False))
    for path in paths[:: max(len(paths) // _MAPS_READ, 1)]:
        try:
            with Image.open(path) as image:
                labels = np.unique(np.asarray(image))
        except (OSError, UnidentifiedImageError) as error:
            raise DenseError(f"{path} cannot be read as an image: write it anew, or take it out.") from error
        wrong = labels[(labels >= len(names) + from_one) & (labels != IGNORED)]
        if wrong.size:
            span = f"{int(from_one)} to {len(names) - 1 + from_one}"
            raise DenseError(
                f"{path} holds the number {wrong[0]}, but {key} has {len(names)} classes, numbered {span}"
                f" ({'0 and ' if from_one else ''}255 for none): correct the maps, reduce_zero_label, or --classes."
            )
