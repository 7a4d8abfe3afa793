"""Whether the data of a config are there, sound, and fit its heads, before anything is built.

Before a run, annotations are read whole, which takes about twice as long as parsing their JSON, and of images and maps
it is looked up whether they are there and what a sample of them holds.
`--check-data` opens all of them: of images the headers, of maps every pixel.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from PIL import Image

from backbones.dense.coco_check import CocoFile, read_categories
from backbones.dense.config import classes_of, dataset_class, datasets, heads
from backbones.dense.errors import DenseError, some
from backbones.dense.reading import Reader, image_size, mapped

IGNORED = 255  # label of pixels that count for nothing


def check(cfg: Config, splits: Sequence[str]) -> list[str]:
    """Make sure, before anything is built, that a config's data are there and fit its heads.

    Args:
        cfg: The config.
        splits: Which data the run will read.

    Returns:
        Remarks that the user should see.

    Raises:
        DenseError: The first problem.
    """
    remarks: list[str] = []
    if os.environ.get("RANK", "0") != "0":  # of torchrun's processes, the first checks for all
        return remarks
    for problem in problems(cfg, splits, Reader(), remarks):
        raise DenseError(problem)
    return remarks


def problems(cfg: Config, splits: Sequence[str], reader: Reader, remarks: list[str]) -> Iterator[str]:
    """Every problem of a config's data, a sentence each.

    Args:
        cfg: The config.
        splits: Which data to look at.
        reader: How thoroughly.
        remarks: Takes what is no problem, but should be seen.
    """
    for key, dataset in datasets(cfg, splits):
        names = classes_of(cfg, dataset)
        if not names:
            yield f"{key} has no class names: give metainfo=dict(classes=(...)), or --classes."
            continue
        yield from _of_heads(cfg, key, names)
        absent = list(_absent(key, dataset))
        yield from absent
        if absent:
            continue
        if cfg.default_scope == "mmseg":
            yield from SegmentationMaps.of(key, cfg, dataset, names).problems(reader, remarks)
        else:
            yield from _of_coco(cfg, key, dataset, names, reader, remarks)
    for split in ("val", "test"):
        evaluators = cfg.get(f"{split}_evaluator") if split in splits else None
        for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators or {}]:
            if isinstance(evaluator.get("ann_file"), str) and not Path(evaluator.ann_file).is_file():
                yield (
                    f"{split}_evaluator.ann_file is {evaluator.ann_file}, which is not there: give that of the data, "
                    "or --data-root."
                )


def _under_root(dataset: Any, path: str) -> Path:
    return Path(dataset.get("data_root") or "") / path


def _absent(key: str, dataset: Any) -> Iterator[str]:
    """Files and folders of a data set that are not there."""
    remedy = "put the data there, or name its folder with --data-root"
    if dataset.get("ann_file"):
        path = _under_root(dataset, dataset.ann_file)
        if not path.is_file():
            yield f"{key} reads the annotations {path}, which are not there: {remedy}."
    for what, prefix in dataset.get("data_prefix", {}).items():
        path = _under_root(dataset, prefix)
        if not path.is_dir():
            yield f"{key} reads its {what} files from {path}, which is not a folder: {remedy}."


def _of_heads(cfg: Config, key: str, names: tuple[str, ...]) -> Iterator[str]:
    for head_key, head in heads(cfg.model):
        if "num_things_classes" in head:
            count = head["num_things_classes"] + (head.get("num_stuff_classes") or 0)
        else:
            count = head["num_classes"]
        if count != len(names):
            yield (
                f"{head_key} has {count} classes, but {key} has {len(names)} ({some(names)}): "
                "give --classes with the names of the data's classes, or make num_classes and metainfo agree."
            )


def _of_coco(
    cfg: Config, key: str, dataset: Any, names: tuple[str, ...], reader: Reader, remarks: list[str]
) -> Iterator[str]:
    from mmdet.datasets import CocoDataset, CocoPanopticDataset

    kind = dataset_class(cfg, dataset.type)
    if not issubclass(kind, CocoDataset):
        return
    path = _under_root(dataset, dataset.ann_file)
    prefix = dataset.get("data_prefix", {})
    panoptic = issubclass(kind, CocoPanopticDataset)
    if not panoptic:
        try:
            remark = _of_categories(key, path, names)
            remarks += [remark] if remark else []
        except DenseError as error:
            yield str(error)
        if any(getattr(kind, name) is not getattr(CocoDataset, name) for name in ("load_data_list", "parse_data_info")):
            return  # has other fields (LVIS), or other names of files (Objects365)
    steps = dataset.get("pipeline", [])
    split = key.partition("_")[0]
    evaluators = cfg.get(f"{split}_evaluator") or []
    metrics = [e.get("metric", ()) for e in (evaluators if isinstance(evaluators, list | tuple) else [evaluators])]
    masks = any(step.get("with_mask") for step in steps) or any("segm" in metric for metric in metrics)
    file = CocoFile(
        path,
        images=_under_root(dataset, prefix.get("img", "")),
        maps=_under_root(dataset, prefix.get("seg", "")) if panoptic else None,
        masks=masks and not panoptic,
    )
    yield from file.problems(reader, remarks)


def _of_categories(key: str, path: Path, names: tuple[str, ...]) -> str | None:
    """A remark on categories that are not used.

    Raises:
        DenseError: The file has other categories, or another order, than the config.
    """
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
    return f"{path}: {len(left)} of {len(found)} categories are not used ({some(left)})" if left else None


@dataclass
class SegmentationMaps:
    """Images and their maps of class numbers, as a data set of mmseg reads them.

    Args:
        key: Of the data set in the config.
        names: Its classes.
        pairs: Every image with its map.
        extra: Maps that no image belongs to.
        from_one: Whether classes count from 1, and 0 is ignored.
        folders: Those of images and maps, with the suffixes of their files.
    """

    key: str
    names: tuple[str, ...]
    pairs: list[tuple[Path, Path]]
    extra: list[Path]
    from_one: bool
    folders: tuple[Path, str, Path, str]

    @classmethod
    def of(cls, key: str, cfg: Config, dataset: Any, names: tuple[str, ...]) -> SegmentationMaps:
        defaults = inspect.signature(dataset_class(cfg, dataset.type).__init__).parameters

        def option(name: str, default: Any) -> Any:
            return dataset.get(name, defaults[name].default if name in defaults else default)

        images, maps = (_under_root(dataset, dataset.data_prefix[name]) for name in ("img_path", "seg_map_path"))
        suffix, map_suffix = option("img_suffix", ".jpg"), option("seg_map_suffix", ".png")
        if dataset.get("ann_file"):
            lines = _under_root(dataset, dataset.ann_file).read_text(encoding="utf-8").splitlines()
            stems, drawn = [line.strip() for line in lines], []
        else:
            stems, drawn = _stems(images, suffix), _stems(maps, map_suffix)
        pairs = [(images / f"{stem}{suffix}", maps / f"{stem}{map_suffix}") for stem in stems]
        extra = [maps / f"{stem}{map_suffix}" for stem in sorted(set(drawn) - set(stems))]
        from_one = bool(option("reduce_zero_label", False))
        return cls(key, names, pairs, extra, from_one, (images, suffix, maps, map_suffix))

    def problems(self, reader: Reader, remarks: list[str]) -> Iterator[str]:
        """Every problem, a sentence; what only deserves a remark is appended to `remarks`."""
        images, suffix, maps, map_suffix = self.folders
        if not self.pairs:
            yield f"{self.key} finds no *{suffix} in {images}: correct img_suffix or the folder."
            return
        if not any(reader.exists(path) for _, path in self.pairs) and not self.extra:
            yield f"{self.key} finds no *{map_suffix} in {maps}: correct seg_map_suffix or the folder."
            return
        sound = []
        for image, path in self.pairs:
            if not reader.exists(image):
                yield f"The image {image} is not there: put it there, or take it out of the list."
            elif not reader.exists(path):
                yield f"The image {image} has no map {path}: put it there, or take the image out."
            else:
                sound.append((image, path))
        for path in self.extra:
            yield f"The map {path} has no image {suffix} of its name in {images}: put it there, or take the map out."
        read = reader.some(sound)
        ignored = []
        for (_, path), (found, nothing) in zip(read, reader.track(mapped(self._look, read), len(read), "maps")):
            yield from found
            ignored += [path] if nothing else []
        if reader.whole or len(ignored) == len(read):
            for path in ignored:
                yield f"The map {path} has no pixel of any class: take it out, or correct it or reduce_zero_label."
        elif ignored:
            remarks.append(
                f"{len(ignored)} of {len(read)} maps looked at have no pixel of a class, such as {ignored[0]}"
            )

    def _look(self, pair: tuple[Path, Path]) -> tuple[list[str], bool]:
        """What is wrong with an image and its map, and whether the map is ignored everywhere."""
        image, path = pair
        size = image_size(image)
        if isinstance(size, str):
            return [f"The image {image} {size}: replace it, or take it out."], False
        try:
            with Image.open(path) as file:
                labels = np.asarray(file)
        except (OSError, SyntaxError, ValueError):
            return [f"The map {path} cannot be read as an image: write it anew, or take it out."], False
        if labels.ndim != 2:
            return [f"The map {path} is a picture of colours: write one channel with the number of the class."], False
        found = []
        if labels.shape != size:
            found.append(
                f"The map {path} has {labels.shape[0]} x {labels.shape[1]} pixels (height x width), but its image "
                f"{image} {size[0]} x {size[1]}: write it anew."
            )
        numbers = np.unique(labels) if labels.dtype != np.uint8 else np.flatnonzero(np.bincount(labels.ravel()))
        nothing = [IGNORED, 0] if self.from_one else [IGNORED]
        wrong = numbers[((numbers >= len(self.names) + self.from_one) | (numbers < 0)) & (numbers != IGNORED)]
        if wrong.size:
            span = f"{int(self.from_one)} to {len(self.names) - 1 + self.from_one}"
            found.append(
                f"{path} holds the number {wrong[0]}, but {self.key} has {len(self.names)} classes, numbered {span} "
                f"({'0 and ' if self.from_one else ''}255 for none): correct the maps, reduce_zero_label, or --classes."
            )
        return found, not wrong.size and bool(np.isin(numbers, nothing).all())


def _stems(folder: Path, suffix: str) -> list[str]:
    """Names of the files below a folder, hidden ones left out, without their suffix, in order."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(where, folder)
        for name in files:
            if name.endswith(suffix) and not name.startswith("."):
                found.append(os.path.normpath(os.path.join(inside, name.removesuffix(suffix))))
    return sorted(found)
