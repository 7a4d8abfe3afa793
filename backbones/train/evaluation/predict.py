"""Predicts the classes of image files: running a model over them, and writing what it said."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from backbones.train.data.datasets import DataError, DigitsDataset, ImageSource, SubsetSource, image_mode
from backbones.train.data.images import convert_image
from backbones.train.evaluation.evaluate import Forward
from backbones.train.evaluation.plots import SheetItem, plot_sheet


class ImageFiles(ImageSource):
    """Image files as a dataset of (image, position); the arguments are those of ``build_dataset``."""

    def __init__(self, files: Sequence[Path], in_chans: int = 3, exif_transpose: bool = False) -> None:
        super().__init__([], len(files))
        self.files = list(files)
        self.mode, self.exif_transpose = image_mode(in_chans), exif_transpose
        self.unreadable.limit = len(files)  # every bad file is to be named, none ends the run

    def _read(self, index: int) -> tuple[Image.Image, int]:
        with Image.open(self.files[index]) as image:
            return convert_image(image, self.mode, self.exif_transpose), index

    def __len__(self) -> int:
        return len(self.files)

    def filename(self, index: int) -> str:
        return str(self.files[index])


class HeldOutDigits(SubsetSource):
    """The first `count` of the embedded digits that no training sees, taken in turn from every class.

    Attributes:
        truths: The true class of each.
    """

    def __init__(self, count: int, in_chans: int = 3) -> None:
        digits = DigitsDataset("val", in_chans)
        if not 1 <= count <= len(digits):
            raise DataError(f"--digits must be between 1 and {len(digits)} (the held-out digits), not {count}.")
        seen: dict[int, int] = {}
        turns = []
        for index, label in enumerate(digits.labels):
            turns.append((seen.setdefault(label, 0), label, index))
            seen[label] += 1
        super().__init__(digits, [index for *_, index in sorted(turns)[:count]])
        self.truths = [digits.class_names[digits.labels[index]] for index in self.indices]

    def _read(self, index: int) -> tuple[Image.Image, int]:
        return super()._read(index)[0], index


@dataclass
class Prediction:
    """What the model says of one image.

    Attributes:
        index: Position in the dataset.
        file: Its name.
        classes: Outputs, most probable first.
        names: Their class names.
        probabilities: Their probabilities in 0..1.
        truth: Name of the true class, where it is known.
    """

    index: int
    file: str
    classes: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    truth: str | None = None


def read_class_map(path: str | Path, num_classes: int) -> list[str]:
    """Class names from a file: one a line in order of the outputs, or JSON (a list, {output: name} or {name: output}).

    Raises:
        DataError: When the file cannot be read or does not name every output once.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        content: Any = json.loads(text) if Path(path).suffix.lower() == ".json" else text.splitlines()
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"Cannot read the class names in {path}: {error}") from error
    if isinstance(content, dict):
        pairs = content.items() if all(str(key).isdigit() for key in content) else ((v, k) for k, v in content.items())
        try:
            by_output = {int(output): str(name) for output, name in pairs}
        except (TypeError, ValueError) as error:
            raise DataError(f"{path} must map outputs to names or names to outputs.") from error
        if sorted(by_output) != list(range(num_classes)):
            raise DataError(f"{path} must name the outputs 0 to {num_classes - 1} of the model, each once.")
        return [by_output[output] for output in range(num_classes)]
    names = [str(name).strip() for name in content if str(name).strip()]
    if len(names) != num_classes:
        raise DataError(f"{path} names {len(names)} classes and the model has {num_classes} outputs.")
    return names


def true_class(file: Path, class_names: Sequence[str] | None, shown: Sequence[str]) -> str | None:
    """The class that the file's folder is named for, in the words of `shown`; None when it is named for none."""
    folder = file.resolve().parent.name
    for names in (class_names, shown):
        if names and folder in names:
            return shown[list(names).index(folder)]
    return None


def predict(
    forward: Forward,
    loader: Iterable[tuple[Any, Any]],
    source: ImageSource,
    class_names: Sequence[str],
    topk: int = 5,
    truths: Sequence[str | None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Prediction], list[str]]:
    """Runs over all images.

    Args:
        forward: The model.
        loader: Batches of images (B, C, H, W) and positions (B,) in `source`; -1 stands for an unreadable image.
        source: Where the images come from.
        class_names: A name for every output.
        topk: Classes to keep of each image.
        truths: True class of each image of `source`, where known.
        progress: Called with the number of images of each batch done.

    Returns:
        The predictions, and the names of the files that could not be read. Outputs that are NaN or infinite give
        probabilities that are NaN.
    """
    predictions: list[Prediction] = []
    for images, positions in loader:
        probabilities = forward(images).double().softmax(-1)
        values, classes = probabilities.topk(min(topk, probabilities.shape[1]), dim=1)
        for position, top, kept in zip(positions.tolist(), classes.tolist(), values.tolist()):
            if position >= 0:
                predictions.append(
                    Prediction(
                        position,
                        source.filename(position),
                        top,
                        [class_names[index] for index in top],
                        kept,
                        truths[position] if truths else None,
                    )
                )
        if progress is not None:
            progress(len(images))
    seen = {prediction.index for prediction in predictions}
    return predictions, [source.filename(index) for index in range(len(source)) if index not in seen]


def write_predictions(predictions: Sequence[Prediction], kind: str, out: TextIO) -> None:
    """Writes predictions as "text" (a line an image), "csv" (a row an image) or "json" (a list)."""
    known = any(prediction.truth is not None for prediction in predictions)
    if kind == "json":
        rows = []
        for p in predictions:
            top = [
                {"index": index, "class": name, "probability": None if math.isnan(value) else round(value, 6)}
                for index, name, value in zip(p.classes, p.names, p.probabilities)
            ]
            rows.append({"file": p.file, **({"truth": p.truth} if known else {}), "predictions": top})
        json.dump(rows, out, indent=2, ensure_ascii=False)
        out.write("\n")
    elif kind == "csv":
        ranks = range(1, 1 + max((len(p.classes) for p in predictions), default=0))
        titles = [title for r in ranks for title in (f"class_{r}", f"index_{r}", f"probability_{r}")]
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["file", *(["truth"] if known else []), *titles])
        for p in predictions:
            top = [cell for row in zip(p.names, p.classes, (round(v, 6) for v in p.probabilities)) for cell in row]
            writer.writerow([p.file, *([p.truth or ""] if known else []), *top])
    else:
        for p in predictions:
            top = ", ".join(f"{name} {100 * value:.1f} %" for name, value in zip(p.names, p.probabilities))
            truth = "" if p.truth is None else f"  [{'right' if p.truth == p.names[0] else f'wrong: {p.truth}'}]"
            out.write(f"{p.file}: {top}{truth}\n")


def write_sheet(
    predictions: Sequence[Prediction],
    source: ImageSource,
    path: str | Path,
    title: str,
    limit: int,
    columns: int | None = None,
) -> tuple[Path, int]:
    """Draws the first `limit` predictions as a contact sheet.

    Returns:
        The path, and how many pictures the sheet shows.
    """
    items = []
    for prediction in predictions[:limit]:
        image = source.read(prediction.index)
        if image is None:  # the file has gone since it was predicted
            continue
        thumbnail = image[0].copy()
        thumbnail.thumbnail((320, 320), Image.Resampling.LANCZOS)
        items.append(
            SheetItem(
                thumbnail,
                prediction.names[0],
                prediction.probabilities[0],
                prediction.truth,
                Path(prediction.file).name,
            )
        )
    return plot_sheet(items, path, title, columns), len(items)
