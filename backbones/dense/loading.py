"""Data loaders whose samples depend on (seed, epoch, batch, place) only, and which name the file they cannot read.

mmengine's workers draw augmentations from generators that run on, so that a resumed run sees other data. Here every
sample is made under a seed of its own, and a loader can start at any batch, without reading what comes before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Dataset

from backbones.dense.errors import DenseError
from backbones.utils.seeding import seeded

_KEPT = (
    *("num_workers", "collate_fn", "pin_memory", "pin_memory_device", "timeout", "worker_init_fn", "generator"),
    *("multiprocessing_context", "prefetch_factor", "persistent_workers", "in_order"),
)


class Place(NamedTuple):
    """Which sample of a run: its epoch, batch and place there, and its index in the data."""

    epoch: int
    batch: int
    place: int
    index: int


class Batches:
    """The batches of another batch sampler as `Place`s, from any batch on.

    Args:
        batch_sampler: Yields lists of indices.

    Attributes:
        epoch: The one that is read.
        start: First batch of it that is read.
        endless: Whether data that end start anew, as runs that count iterations have it; batches then are counted from
            the run's first.
    """

    def __init__(self, batch_sampler: Any) -> None:
        self.batch_sampler = batch_sampler
        self.epoch = self.start = 0
        self.endless = False

    @property
    def sampler(self) -> Any:
        return self.batch_sampler.sampler

    @property
    def batch_size(self) -> int:
        return self.batch_sampler.batch_size

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[Place]]:
        number, lap = 0, 0
        while True:
            for indices in self.batch_sampler:
                if number >= self.start:
                    yield [Place(self.epoch, number, place, index) for place, index in enumerate(indices)]
                number += 1
            if not self.endless:
                return
            lap += 1
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(lap)


class SeededDataset(Dataset):
    """Another data set whose samples, asked for by `Place`, are made under a seed of their own."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed, self.rank = dataset, seed, get_rank()

    def __getitem__(self, place: Place) -> Any:
        with seeded(self.seed, "sample", self.rank, place.epoch, place.batch, place.place):
            return self.dataset[place.index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


class NamingPipeline:
    """A pipeline of transforms that names the file of a sample that cannot be read."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def __call__(self, sample: Mapping[str, Any]) -> Any:
        """The transformed sample.

        Raises:
            DenseError: Its image or map cannot be read.
        """
        paths = {kind: sample.get(key) for key, kind in (("img_path", "image"), ("seg_map_path", "map"))}
        try:
            return self.pipeline(sample)
        except Exception as error:  # every library that decodes images has its own
            for kind, path in paths.items():
                reason = why_unreadable(path) if isinstance(path, str) else None
                if reason:
                    raise DenseError(f"The {kind} {path} {reason}: replace it, or take it out of the data.") from error
            raise

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "pipeline":
            raise AttributeError(name)
        return getattr(self.pipeline, name)


def why_unreadable(path: str | Path) -> str | None:
    """Why a file is no image, as the rest of a sentence; None where it is one, or is not on this machine."""
    if "://" in str(path):
        return None
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not content:
        return "cannot be read (it is empty)"
    for backend in ("cv2", "pillow"):
        with contextlib.suppress(Exception):  # of OpenCV's or Pillow's own kinds
            if mmcv.imfrombytes(content, flag="unchanged", backend=backend) is not None:
                return None
    return "cannot be read (it is no image, or a part of one)"


def name_files(dataset: Any) -> None:
    """Have a data set, or those that it wraps, name the files that they cannot read."""
    inner: Sequence[Any] = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    for part in inner:
        if part is not None:
            name_files(part)
    pipeline = getattr(dataset, "__dict__", {}).get("pipeline")
    if callable(pipeline) and not isinstance(pipeline, NamingPipeline):
        dataset.pipeline = NamingPipeline(pipeline)


def resumable(loader: DataLoader, seed: int) -> DataLoader:
    """A loader like another one, of `Batches` and a `SeededDataset`.

    Raises:
        DenseError: There are no data.
    """
    if not len(loader.dataset):
        raise DenseError(
            f"{getattr(loader.dataset, 'ann_file', '') or 'The data set'} gives no image to read: "
            "all are without annotations, or left out by filter_cfg."
        )
    name_files(loader.dataset)
    kept = {name: getattr(loader, name) for name in _KEPT}
    return DataLoader(SeededDataset(loader.dataset, seed), batch_sampler=Batches(loader.batch_sampler), **kept)
