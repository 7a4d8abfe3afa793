"""Configs of detectors and segmentors: reading them, and pointing them at one's own data."""

from __future__ import annotations

import colorsys
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.utils import import_modules_from_strings

from backbones.dense.config_table import COLUMNS, config_paths
from backbones.dense.errors import DenseError
from backbones.dense.ops import OperatorsError
from backbones.dense.options import check_options
from backbones.utils.text import either, first_line, nearest

SPLITS = ("train", "val", "test")


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
        work_dir: Where the run goes; `runs/<name of the config>` by default.

    Raises:
        DenseError: The config cannot be read, or has not what is to be changed.
    """
    path = Path(path)
    if not path.is_file():
        known = {config.stem: config for task in COLUMNS for config in config_paths(task)}
        alike = nearest(path.stem, known)
        hint = f"did you mean {either([_short(known[name]) for name in alike])}?" if alike else "see configs/"
        raise DenseError(f"There is no config {path}: {hint}")
    try:
        cfg = Config.fromfile(path)
        check_options(cfg, options or {})
        cfg.merge_from_dict(dict(options or {}))
        if any(key.startswith("custom_imports") for key in options or ()):
            import_modules_from_strings(**cfg.custom_imports)
    except (DenseError, OperatorsError):
        raise
    except Exception as error:  # a config is a program
        raise DenseError(
            f"Cannot read config {path} with these options ({first_line(error)}): correct them."
        ) from error
    if "model" not in cfg or cfg.get("default_scope") not in ("mmdet", "mmseg"):
        raise DenseError(f'{path} is no config of mmdet or mmseg: it needs model and default_scope="mmdet" or "mmseg".')
    if data_root is not None:
        set_data_root(cfg, data_root)
    if classes:
        set_classes(cfg, classes)
    cfg.work_dir = str(work_dir or cfg.get("work_dir") or Path("runs") / path.stem)
    return cfg


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


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
            given = inspect.signature(dataset_class(cfg, dataset.type).__init__).parameters
            for key in ("img_suffix", "seg_map_suffix", "reduce_zero_label"):
                if key in given:
                    dataset.setdefault(key, given[key].default)
            dataset.type = "BaseSegDataset"
        dataset.metainfo = dict(classes=names, palette=palette)
    for key, head in heads(cfg.model):
        if head.get("num_stuff_classes"):
            raise DenseError(f"{key} tells things from stuff: write a config with its classes instead of --classes.")
        head["num_things_classes" if "num_things_classes" in head else "num_classes"] = len(names)
        weights = head.get("loss_cls", {}).get("class_weight")
        if isinstance(weights, list):  # one a class, and one for "no object"
            head["loss_cls"]["class_weight"] = [1.0] * len(names) + [weights[-1]]


def dataset_class(cfg: Config, name: str) -> type:
    """The class of a data set's `type`.

    Raises:
        DenseError: There is none.
    """
    with DATASETS.switch_scope_and_registry(scope=cfg.default_scope) as registry:
        found = registry.get(name)
    if found is None:
        raise DenseError(f"There is no data set type {name!r} in {cfg.default_scope}: correct the config.")
    return found


def heads(model: Any, key: str = "model") -> Iterator[tuple[str, Any]]:
    """Every part of a model that states a number of classes."""
    if isinstance(model, Mapping):
        if any(name in model for name in ("num_classes", "num_things_classes")):
            yield key, model
        for name, value in model.items():
            if name != "backbone":
                yield from heads(value, f"{key}.{name}")
    elif isinstance(model, list | tuple):
        for i, value in enumerate(model):
            yield from heads(value, f"{key}.{i}")


def classes_of(cfg: Config, dataset: Any) -> tuple[str, ...]:
    """Names of a data set's classes: the config's, or those that its type knows."""
    own = dataset.get("metainfo", {}).get("classes")
    return tuple(own or dataset_class(cfg, dataset.type).METAINFO.get("classes", ()))
