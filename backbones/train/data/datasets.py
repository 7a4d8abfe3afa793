"""Image classification data: the embedded digits, class folders and every scheme of ``timm.data.create_dataset``.

Everything here yields ``(PIL image, label)``. The order of samples, augmentation seeds and batches are decided in
:mod:`backbones.train.data.loader`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from backbones.train.data.images import UNREADABLE, convert_image

MAP_SCHEMES = ("torch", "hfds")
STREAM_SCHEMES = ("hfids", "tfds", "wds")
_SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid", "eval", "evaluation", "test")}
_IMAGE_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class DataError(RuntimeError):
    """The data cannot be used as given; the message names what is wrong and what to do."""


class UnreadableImages:
    """Counts unreadable images once each, names them in a log and stops at a limit.

    The flags live in shared memory, so that all loader workers of a process see one count.

    Args:
        size: Number of images of the dataset.
        limit: How many distinct unreadable images are tolerated.
        log: File that gets one line for each unreadable image, or None.
    """

    def __init__(self, size: int, limit: int = 50, log: str | os.PathLike | None = None) -> None:
        self.limit = limit
        self.log = Path(log) if log else None
        self._flags = torch.zeros(max(size, 1), dtype=torch.uint8).share_memory_()

    @property
    def count(self) -> int:
        """Distinct unreadable images met so far."""
        return int(self._flags.count_nonzero())

    def record(self, index: int, name: str, error: Exception) -> None:
        """Notes one failure.

        Raises:
            DataError: When more images than the limit were unreadable.
        """
        if self._flags[index]:
            return
        self._flags[index] = 1
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"{name}\t{type(error).__name__}: {error}\n")
        if self.count > self.limit:
            where = f" (listed in {self.log})" if self.log else ""
            raise DataError(
                f"{self.count} images cannot be read, more than the {self.limit} that --max-unreadable allows{where}; "
                f"the last one is {name} ({type(error).__name__}: {error})."
            )


class ImageSource(Dataset):
    """Random access to ``(image, label)`` with class names; subclasses implement :meth:`_read` and :meth:`__len__`.

    An unreadable image is recorded in :attr:`unreadable` and comes as a black image with label -1, which every
    evaluation here leaves out; so does the index -1, which is padding.

    Attributes:
        class_names: Name of each class, by label.
        mode: PIL mode of the images.
        unreadable: The :class:`UnreadableImages` policy.
    """

    mode = "RGB"

    def __init__(self, class_names: Sequence[str], size: int) -> None:
        self.class_names = [str(name) for name in class_names]
        self.unreadable = UnreadableImages(size)

    def _read(self, index: int) -> tuple[Image.Image, int]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def filename(self, index: int) -> str:
        """A name for messages and tables: the path where there is one."""
        return f"#{index}"

    def read(self, index: int) -> tuple[Image.Image, int] | None:
        """The untransformed sample, or None (recorded) when its image cannot be read."""
        try:
            return self._read(index)
        except UNREADABLE as error:
            self.unreadable.record(index, self.filename(index), error)
            return None

    def read_next(self, index: int) -> tuple[Image.Image, int]:
        """The sample at ``index`` or, if unreadable, the first readable one after it (wrapping around).

        Raises:
            DataError: When nothing can be read or the limit of unreadable images is passed.
        """
        for step in range(len(self)):
            sample = self.read((index + step) % len(self))
            if sample is not None:
                return sample
        raise DataError("No image of the dataset can be read.")

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return (self.read(index) if index >= 0 else None) or (Image.new(self.mode, (64, 64)), -1)


class SubsetSource(ImageSource):
    """Some images of a dataset, by their indices."""

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self.source, self.indices, self.mode = source, indices, source.mode
        super().__init__(source.class_names, len(indices))

    def _read(self, index: int) -> tuple[Image.Image, int]:
        return self.source._read(self.indices[index])

    def __len__(self) -> int:
        return len(self.indices)

    def filename(self, index: int) -> str:
        return self.source.filename(self.indices[index])


class DigitsDataset(ImageSource):
    """scikit-learn's 1,797 real handwritten digits (8 x 8 pixels of 0..16), split once and for all.

    Within each class, in the order scikit-learn stores them, every fifth image is held out. No random number is
    involved, so the split (1,442 to train, 355 to validate) is the same on every machine and with every version.

    Args:
        split: "train" or "val" (any of the usual synonyms).
        in_chans: 3 gives RGB images, 1 greyscale.
    """

    def __init__(self, split: str = "train", in_chans: int = 3) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        held_out, seen = split_name(split) == "val", [0] * 10
        self.indices = []
        for index, label in enumerate(digits.target.tolist()):
            seen[label] += 1
            if (seen[label] % 5 == 0) == held_out:
                self.indices.append(index)
        self.pixels = (digits.images[self.indices] * (255 / 16)).round().astype("uint8")
        self.labels = digits.target[self.indices].tolist()
        self.mode = image_mode(in_chans)
        super().__init__([str(digit) for digit in range(10)], len(self.labels))

    def _read(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]).convert(self.mode), self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)

    def filename(self, index: int) -> str:
        return f"digit_{self.indices[index]:04d}"


class TimmSource(ImageSource):
    """A map-style dataset of timm or torchvision (class folder, tar, ``hfds/``, ``torch/``) behind one interface.

    The arguments are those of :func:`build_dataset`.
    """

    def __init__(self, dataset: Dataset, in_chans: int = 3, exif_transpose: bool = False) -> None:
        self.dataset = dataset
        self.reader = getattr(dataset, "reader", None)
        self.mode, self.exif_transpose = image_mode(in_chans), exif_transpose
        super().__init__(_class_names(dataset), len(dataset))

    def _read(self, index: int) -> tuple[Image.Image, int]:
        if self.reader is None:  # torchvision decodes by itself
            image, label = self.dataset[index]
        else:
            file, label, *_ = self.reader[index]
            with file:
                image = Image.open(file)
                image.load()
        return convert_image(image, self.mode, self.exif_transpose), int(label)

    def __len__(self) -> int:
        return len(self.dataset)

    def filename(self, index: int) -> str:
        if self.reader is not None:
            return str(self.reader.filename(index, absolute=True))
        samples = getattr(self.dataset, "samples", None)
        return str(samples[index][0]) if samples else f"#{index}"


class StreamSource(IterableDataset):
    """A streamed dataset of timm (``wds/``, ``hfids/``, ``tfds/``): iterated in the reader's own seeded order.

    Attributes are those of :class:`ImageSource`, except that undecodable samples are skipped by the reader itself.
    """

    def __init__(self, dataset: IterableDataset, in_chans: int = 3, exif_transpose: bool = False) -> None:
        self.dataset = dataset
        self.mode, self.exif_transpose = image_mode(in_chans), exif_transpose
        self.class_names = _class_names(dataset)
        self.unreadable = UnreadableImages(1)

    def __iter__(self):
        for image, label, *_ in self.dataset:
            try:
                image = convert_image(image, self.mode, self.exif_transpose)
            except UNREADABLE as error:
                self.unreadable.record(0, "a streamed image", error)
                continue
            yield image, int(label)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch's shuffle; call before the loader's workers start."""
        self.dataset.set_epoch(epoch)

    def set_loader_cfg(self, num_workers: int) -> None:
        """Tells the reader the number of loader workers, which its sample count depends on."""
        self.dataset.set_loader_cfg(num_workers=num_workers)


def image_mode(in_chans: int) -> str:
    """PIL mode for a channel count.

    Raises:
        DataError: For anything but 1, 3 or 4 channels.
    """
    if in_chans not in _IMAGE_MODES:
        raise DataError(f"in_chans is {in_chans}, but images are read with 1 (grey), 3 (RGB) or 4 (RGBA) channels.")
    return _IMAGE_MODES[in_chans]


def split_name(split: str) -> str:
    """ "train" or "val" for any usual name of a split.

    Raises:
        DataError: For an unknown name.
    """
    for name, synonyms in _SPLITS.items():
        if split in synonyms:
            return name
    raise DataError(f"Unknown split {split!r}: use one of {', '.join(sum(_SPLITS.values(), ()))}.")


def name_and_root(data: str | None, data_dir: str | None, dataset: str | None) -> tuple[str | None, str | None]:
    """What to open, and the root of a scheme's data, from the three options that name them."""
    root = data if dataset and data and not data_dir else data_dir
    return dataset or data or data_dir, root


def data_name(data: str | None) -> str:
    """A short name of the data for folder names and tables."""
    return "digits" if is_digits(data) else Path(data.rstrip("/")).name


def is_digits(data: str | None) -> bool:
    """Whether ``data`` means the embedded digits."""
    return data in (None, "", "digits")


def build_dataset(
    data: str | None = None,
    split: str = "train",
    *,
    in_chans: int = 3,
    data_dir: str | None = None,
    is_training: bool = False,
    exif_transpose: bool = False,
    **kwargs: Any,
) -> ImageSource | StreamSource:
    """Opens a dataset of ``(PIL image, label)``.

    Args:
        data: None or "digits" for the embedded digits; a folder in ImageNet layout (``train/<class>/…``,
            ``val/<class>/…``); or a timm scheme such as ``torch/cifar10``, ``hfds/<name>``, ``wds/<name>``.
        split: "train" or "val" for digits and folders; passed on as it is for schemes.
        in_chans: Channels: 1, 3 or 4.
        data_dir: Root of a scheme's data.
        is_training: Shuffle and repeat, for streamed schemes.
        exif_transpose: Turn images upright by their EXIF orientation; timm leaves them as they are stored.
        **kwargs: Passed to ``timm.data.create_dataset`` (class_map, download, batch_size, seed, num_samples, …).

    Raises:
        DataError: When the data is not there or has no such split.
    """
    if is_digits(data):
        return DigitsDataset(split, in_chans)
    from timm.data import create_dataset

    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    scheme = data.partition("/")[0].lower()
    if scheme in MAP_SCHEMES + STREAM_SCHEMES and "/" in data and not Path(data).exists():
        if scheme in ("hfids", "wds"):
            kwargs["input_img_mode"] = ""  # the conversion is ours
        try:
            dataset = create_dataset(data, root=data_dir, split=split, is_training=is_training, **kwargs)
        except (ImportError, RuntimeError, AssertionError, OSError, ValueError) as error:
            raise DataError(f"Cannot open {data} (split {split}, --data-dir {data_dir}): {error}") from error
        return (StreamSource if scheme in STREAM_SCHEMES else TimmSource)(dataset, in_chans, exif_transpose)
    folder = split_folder(data, split)
    keep = {key: kwargs[key] for key in ("class_map", "input_key") if key in kwargs}
    try:
        return TimmSource(create_dataset("", root=str(folder), search_split=False, **keep), in_chans, exif_transpose)
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"Cannot use {folder}: {error}") from error


def split_folder(data: str, split: str) -> Path:
    """The folder (or .tar) of a split inside ``data``; ``data`` itself when it holds class folders only.

    Raises:
        DataError: When ``data`` does not exist, or a train/val layout lacks the split.
    """
    root = Path(data)
    if not root.exists():
        raise DataError(
            f"--data {data} does not exist: give a folder with train/<class>/ and val/<class>/, "
            f"a scheme ({', '.join(MAP_SCHEMES + STREAM_SCHEMES)}/…), or nothing for the embedded digits."
        )
    names = _SPLITS.get(split_name(split) if split in sum(_SPLITS.values(), ()) else "", (split,))
    for name in (split, *names):
        for candidate in (root / name, root / f"{name}.tar"):
            if candidate.exists():
                return candidate
    raise DataError(f"{data} has no folder for the split {split!r} (looked for {', '.join(dict.fromkeys(names))}).")


def check_same_classes(train: ImageSource | StreamSource, val: ImageSource | StreamSource) -> None:
    """Makes sure that a label means the same class in both splits.

    Raises:
        DataError: Naming the classes that only one split has.
    """
    if not train.class_names or not val.class_names or train.class_names == val.class_names:
        return
    parts = []
    for name, ours, others in (("train", train, val), ("val", val, train)):
        only = [c for c in ours.class_names if c not in set(others.class_names)]
        more = f" and {len(only) - 5} more" if len(only) > 5 else ""
        parts += [f"only in {name}: {', '.join(only[:5])}{more}"] if only else []
    raise DataError(
        f"The class folders of train ({len(train.class_names)}) and val ({len(val.class_names)}) differ: "
        f"{'; '.join(parts) or 'same names in another order'}. Add the missing folders, or give --class-map."
    )


def _class_names(dataset: Any) -> list[str]:
    """Names by label from whatever the dataset tells; empty when it tells nothing."""
    reader = getattr(dataset, "reader", None)
    owners = ((reader, "class_to_idx"), (reader, "class_name_to_idx"), (dataset, "class_to_idx"))
    mapping = next((found for owner, name in owners if (found := getattr(owner, name, None))), None)
    if mapping:
        names = {int(label): str(name) for name, label in mapping.items()}
        return [names.get(label, str(label)) for label in range(max(names) + 1)]
    return [str(name) for name in getattr(dataset, "classes", None) or []]
