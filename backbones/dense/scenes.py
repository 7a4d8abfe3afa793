"""Real pixels to learn detection and segmentation on where no data set is at hand: handwritten digits on photographs.

scikit-learn brings 1,797 handwritten digits of 8 x 8 pixels and two photographs. A scene is a crop of a photograph on
which digits lie, larger and smaller, turned, coloured and shaded, some partly over others, under uneven light. The
held-out scenes are made of held-out digits and of a part of the photographs that no training scene shows.

The annotations come in the two forms that detectors and segmentors train on:

- `annotations/instances_{train,val}.json`: COCO's instances, categories "0" to "9" with the ids 1 to 10. Masks are the
  visible ink as uncompressed run lengths, since polygons have no holes and half of the digits do.
- `masks/{train,val}/*.png`: class maps that count from 1, as ADE20K's (`reduce_zero_label=True`): the categories' ids,
  and 11 for the photograph, which is a class of its own as it must be told from the digits. 0, unlabelled, stays free.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from rich.progress import Progress

from backbones.dense.cli_common import guarded, say
from backbones.dense.errors import DenseError
from backbones.utils.terminal import counting_bar

SPLITS = ("train", "val")
CLASSES = tuple("0123456789")
PHOTOGRAPH = len(CLASSES) + 1  # its number in the class maps
MARKER = "scenes.json"
FORMAT = 1  # of what a seed gives; counts up when the scenes change
HELD_OUT = 0.3  # right-hand share of the photographs that val scenes are cropped from
DIGITS_PER_SCENE = (5, 10)
SIDES = (0.15, 0.36)  # a digit's side, of the scene's shorter side
TURN = 15.0  # degrees, either way
INK = 0.4  # grey value from which a pixel of an enlarged digit is ink
SHADOW = 0.08  # width of a digit's shadow, of its side
MIN_VISIBLE = 0.6  # least share of a digit's ink that digits over it leave
MAX_BOX_OVERLAP = 0.5  # of two digits' boxes, as a share of the smaller


@dataclass(frozen=True)
class Settings:
    """What decides the scenes, to the byte (with the same versions of NumPy, Pillow and scikit-learn).

    Raises:
        DenseError: A value is out of range.
    """

    train: int = 800
    val: int = 100
    size: tuple[int, int] = (160, 160)  # height, width
    seed: int = 0

    def __post_init__(self) -> None:
        for name in SPLITS:
            if not 1 <= getattr(self, name) < 10**6:
                raise DenseError(f"--{name} must be from 1 to 999999 scenes, not {getattr(self, name)}.")
        if not all(64 <= side <= 2048 for side in self.size):
            raise DenseError(f"--size must be from 64 to 2048 pixels, not {self.size[0]} x {self.size[1]}.")
        if self.seed < 0:
            raise DenseError(f"--seed must be 0 or more, not {self.seed}.")

    def marker(self) -> dict[str, Any]:
        """What the marker of a complete folder holds."""
        return {"format": FORMAT, **asdict(self), "size": list(self.size)}


class Scene(NamedTuple):
    """One image with its instances.

    Attributes:
        image: `(H, W, 3)` RGB, uint8.
        instances: `(H, W)` uint8: 0 for the photograph, `i + 1` where digit `i` is seen.
        labels: Digit of every instance.
    """

    image: np.ndarray
    instances: np.ndarray
    labels: list[int]


class Sources:
    """The digits and the parts of the photographs that one split is made of.

    Attributes:
        digits: `(N, 8, 8)` uint8 ink.
        labels: Their digits.
        photographs: `(H, W, 3)` uint8 regions; those of the two splits share no pixel.
        narrowest: Height and width that a region has at least, whatever the split.
    """

    def __init__(self, split: str) -> None:
        from sklearn.datasets import load_digits, load_sample_images

        digits = load_digits()
        # The fifth, tenth, ... of every class is held out: the same ones on every machine.
        order = np.array([np.count_nonzero(digits.target[:i] == label) for i, label in enumerate(digits.target)])
        chosen = (order % 5 == 4) == (split == "val")
        self.digits = (digits.images[chosen] * (255 / 16)).round().astype(np.uint8)
        self.labels = digits.target[chosen].tolist()
        whole = load_sample_images().images
        borders = [round(image.shape[1] * (1 - HELD_OUT)) for image in whole]
        self.photographs = [
            image[:, :border] if split == "train" else image[:, border:] for image, border in zip(whole, borders)
        ]
        self.narrowest = (
            min(image.shape[0] for image in whole),
            min(min(border, image.shape[1] - border) for image, border in zip(whole, borders)),
        )


def compose(sources: Sources, size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Make one scene of `size` (height, width)."""
    canvas = _background(sources, size, rng)
    instances = np.zeros(size, np.uint8)
    labels: list[int] = []
    areas: list[int] = []
    boxes: list[tuple[int, int, int, int]] = []
    wanted = int(rng.integers(*DIGITS_PER_SCENE, endpoint=True))
    for _ in range(8 * wanted):
        if len(labels) == wanted:
            break
        index = int(rng.integers(len(sources.labels)))
        alpha = _glyph(sources.digits[index], min(size) * rng.uniform(*SIDES), rng.uniform(-TURN, TURN))
        height, width = alpha.shape
        if height > size[0] or width > size[1]:
            continue
        top, left = (int(rng.integers(room + 1)) for room in (size[0] - height, size[1] - width))
        place = np.s_[top : top + height, left : left + width]
        box = (top, left, top + height, left + width)
        after = instances.copy()
        after[place][alpha >= 0.5] = len(labels) + 1
        seen = np.bincount(after.ravel(), minlength=len(labels) + 2)[1:]
        covers_too_much = any(share < MIN_VISIBLE * area for share, area in zip(seen, areas))
        if covers_too_much or any(_overlap(box, other) > MAX_BOX_OVERLAP for other in boxes):
            continue
        _paint(canvas[place], alpha, rng)
        instances = after
        labels.append(sources.labels[index])
        areas.append(int(seen[-1]))
        boxes.append(box)
    return Scene(_lit(canvas, rng), instances, labels)


def _background(sources: Sources, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A crop of a photograph, mirrored or not, scaled to `size`: `(H, W, 3)` float64 from 0 to 1."""
    photograph = sources.photographs[int(rng.integers(len(sources.photographs)))]
    zoom = min(room / side for room, side in zip(sources.narrowest, size)) * rng.uniform(0.5, 1.0)
    height, width = (max(round(side * zoom), 1) for side in size)
    top, left = (int(rng.integers(room + 1)) for room in (photograph.shape[0] - height, photograph.shape[1] - width))
    crop = photograph[top : top + height, left : left + width]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    scaled = Image.fromarray(np.ascontiguousarray(crop)).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(scaled) / 255.0


def _glyph(ink: np.ndarray, side: float, angle: float) -> np.ndarray:
    """An `(8, 8)` digit enlarged to `side` pixels and turned by `angle` degrees: its opacity, and room for a shadow."""
    padded = Image.fromarray(np.pad(ink, 2))  # so that strokes at the border end softly
    enlarged = round(side * padded.width / ink.shape[1])
    image = padded.resize((enlarged, enlarged), Image.Resampling.BICUBIC)
    grey = np.asarray(image.rotate(angle, Image.Resampling.BICUBIC)) / 255.0
    # The grey ramp of a stroke is one pixel of the 8 wide; here it is two pixels of the scene, whatever the scale.
    alpha = np.clip((grey - INK) * max(side / 16, 1.0) + 0.5, 0.0, 1.0)
    alpha[alpha < 0.02] = 0.0
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    return np.pad(alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], math.ceil(SHADOW * side))


def _paint(canvas: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> None:
    """Put ink of a light colour, shaded from one side, and its shadow on `canvas`, `(H, W, 3)`.

    The shadow lets the ink stand out from any photograph and from ink below; it belongs to what it falls on.
    """
    radius = (alpha.shape[0] - np.count_nonzero(alpha.any(1))) / 4
    blurred = Image.fromarray(np.round(alpha * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    canvas *= 1 - rng.uniform(0.6, 0.9) * np.minimum(np.asarray(blurred) / 128.0, 1.0)[..., None]
    colour = np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.6), rng.uniform(0.75, 1.0)))
    shaded = np.clip(colour * _ramp(alpha.shape, rng, 0.25)[..., None], 0.0, 1.0)
    canvas += alpha[..., None] * (shaded - canvas)


def _lit(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The scene as a camera sees it: brighter or darker, unevenly, tinted, with noise. `(H, W, 3)` uint8."""
    light = rng.uniform(0.65, 1.2) * _ramp(canvas.shape[:2], rng, 0.3)[..., None] * rng.uniform(0.9, 1.1, size=3)
    noise = rng.normal(scale=rng.uniform(0.005, 0.035), size=canvas.shape)
    return np.round(np.clip(canvas * light + noise, 0.0, 1.0) * 255).astype(np.uint8)


def _ramp(size: tuple[int, int], rng: np.random.Generator, strength: float) -> np.ndarray:
    """Factors around 1 that rise by up to `strength` either way in a random direction: `(H, W)`."""
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = (np.linspace(-1, 1, side) for side in size)
    slope = (rows[:, None] * math.sin(angle) + columns * math.cos(angle)) / math.sqrt(2)
    return 1 + rng.uniform(0, strength) * slope


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection of two boxes (top, left, bottom, right) as a share of the smaller."""
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(height, 0) * max(width, 0) / min(areas)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of an `(H, W)` mask: of zeros and ones in turn, down the columns."""
    flat = np.asarray(mask, bool).ravel(order="F")
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], borders, [flat.size]))).tolist()
    return [0, *runs] if flat[0] else runs


def class_map(scene: Scene) -> np.ndarray:
    """The `(H, W)` uint8 class map of a scene, counted from 1 as in ADE20K."""
    numbers = np.array([PHOTOGRAPH, *(label + 1 for label in scene.labels)], np.uint8)
    return numbers[scene.instances]


def annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO's annotations of a scene."""
    found = []
    for i, label in enumerate(scene.labels):
        mask = scene.instances == i + 1
        rows, columns = np.flatnonzero(mask.any(1)).tolist(), np.flatnonzero(mask.any(0)).tolist()
        left, top = columns[0], rows[0]
        found.append(
            {
                "id": first_id + i,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [left, top, columns[-1] + 1 - left, rows[-1] + 1 - top],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
            }
        )
    return found


def file_stems(settings: Settings, split: str) -> list[str]:
    """Names of a split's images and masks, without suffix."""
    return [f"{number:06d}" for number in range(1, getattr(settings, split) + 1)]


def write_split(folder: Path, settings: Settings, split: str, progress: Progress) -> None:
    """Write the images, masks and annotations of one split."""
    sources = Sources(split)
    images, instances = [], []
    for kind in ("images", "masks"):
        (folder / kind / split).mkdir(parents=True)
    stems = file_stems(settings, split)
    for number, stem in enumerate(progress.track(stems, description=f"{split} scenes"), start=1):
        # A stream of its own for every scene: more scenes do not change the first ones.
        scene = compose(sources, settings.size, np.random.default_rng((settings.seed, SPLITS.index(split), number)))
        Image.fromarray(scene.image).save(folder / "images" / split / f"{stem}.jpg", quality=92, subsampling=0)
        Image.fromarray(class_map(scene)).save(folder / "masks" / split / f"{stem}.png")
        height, width = settings.size
        images.append({"id": number, "file_name": f"{stem}.jpg", "height": height, "width": width})
        instances += annotations(scene, number, len(instances) + 1)
    table = {
        "info": {"description": "Handwritten digits on photographs, both of scikit-learn", "split": split},
        "images": images,
        "annotations": instances,
        "categories": [{"id": i + 1, "name": name, "supercategory": "digit"} for i, name in enumerate(CLASSES)],
    }
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(table), encoding="utf-8")


def missing_files(folder: Path, settings: Settings) -> Iterator[Path]:
    """Files of a complete folder that are not there."""
    for split in SPLITS:
        yield from (p for p in [folder / "annotations" / f"instances_{split}.json"] if not p.is_file())
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            there = {path.name for path in (folder / kind / split).glob(f"*.{suffix}")}
            names = (f"{stem}.{suffix}" for stem in file_stems(settings, split))
            yield from (folder / kind / split / name for name in names if name not in there)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill beside `folder`, which takes its place if the block ends without error."""
    aside, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{name}") for name in ("tmp", "old"))
    try:
        aside.mkdir(parents=True)
        yield aside
        if folder.exists():
            folder.replace(old)
        aside.replace(folder)
    finally:
        if old.exists() and not folder.exists():
            old.replace(folder)
        for path in (aside, old):
            shutil.rmtree(path, ignore_errors=True)


def make_scenes(folder: str | os.PathLike, settings: Settings, overwrite: bool = False) -> bool:
    """Write the scenes to `folder`, whole or not at all.

    Args:
        overwrite: Replace scenes of other settings, or incomplete ones.

    Returns:
        Whether they were written: False where they are there already.

    Raises:
        DenseError: The folder holds other scenes, or something else (which is never replaced).
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and not folder.is_dir():
        raise DenseError(f"{folder} is a file: give another --out.")
    if folder.is_dir() and any(folder.iterdir()):
        try:
            found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise DenseError(f"{folder} holds something else than scenes: give another --out.") from None
        if not overwrite:
            if found != settings.marker():
                raise DenseError(
                    f"{folder} holds scenes of other settings ({_listed(found)}; asked for are "
                    f"{_listed(settings.marker())}): give --overwrite to replace them, or another --out."
                )
            missing = next(missing_files(folder, settings), None)
            if missing is not None:
                raise DenseError(f"{missing} is missing: give --overwrite to make the scenes again.")
            return False
    try:
        with (
            replacing_folder(folder) as aside,
            counting_bar() as progress,
        ):
            for split in SPLITS:
                write_split(aside, settings, split, progress)
            (aside / MARKER).write_text(json.dumps(settings.marker(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DenseError(f"Cannot write the scenes to {folder}: {error.strerror or error}.") from error
    return True


def _listed(marker: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in marker.items()) if isinstance(marker, dict) else str(marker)


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="make_scenes",
        description="Write a small data set of handwritten digits on photographs, for detection and segmentation.",
    )
    parser.add_argument("--out", default="data/scenes", metavar="DIR", help="folder to write (default: data/scenes)")
    parser.add_argument("--train", type=int, default=default.train, metavar="N", help="training scenes (%(default)s)")
    parser.add_argument("--val", type=int, default=default.val, metavar="N", help="held-out scenes (%(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=default.size, metavar=("H", "W"), help="pixels (160 160)")
    parser.add_argument(
        "--seed", type=int, default=default.seed, metavar="N", help="another gives others (%(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace scenes that are there")
    return parser


def _run(argv: Sequence[str] | None) -> None:
    args = _parser().parse_args(argv)
    settings = Settings(args.train, args.val, tuple(args.size), args.seed)
    written = make_scenes(args.out, settings, args.overwrite)
    counts = f"{settings.train} training and {settings.val} held-out scenes"
    say(f"{args.out}: wrote {counts}" if written else f"{args.out}: has these {counts} already")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `tools/dense/make_scenes.py`; returns the exit code."""
    return guarded(_run, argv)
