"""Files that are either whole or not there."""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

#: Formats that Pillow decodes and people have in folders of images.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm")
IMAGE_SUFFIXES += (".jp2", ".avif")


class InputError(ValueError):
    """What the user names as input is not there; the message is one sentence."""


class WriteError(OSError):
    """A file cannot be written; the message names it and the reason."""


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give the path of a file to write beside `path`, and rename it over `path` if the block ends without error.

    The folder is made if it is not there. A reader sees the old file or the new one, never a part. What is there and
    is no plain file (a device, a pipe, a link) is written to as it is.

    Raises:
        WriteError: When the file cannot be written.
    """
    path = Path(path)
    plain = not path.exists() or (path.is_file() and not path.is_symlink())
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp") if plain else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if plain:
            os.replace(aside, path)
    except OSError as error:
        raise WriteError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        if plain:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike) -> None:
    """Make sure, before the work, that a file can be made at `path`.

    Raises:
        WriteError: When it is a folder, or the nearest folder above it is none or cannot be written to.
    """
    path = Path(path).absolute()
    parent = next(folder for folder in path.parents if folder.exists())
    if path.is_dir():
        raise WriteError(f"Cannot write {path}: Is a directory.")
    if not parent.is_dir() or not os.access(path if path.exists() else parent, os.W_OK):
        raise WriteError(f"Cannot write {path}: {parent} is not a folder that can be written to.")


def sync(path: str | os.PathLike) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all; returns its path."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")
    return Path(path)


def write_json(path: str | os.PathLike, content: Any, indent: int = 1, **kwargs: Any) -> Path:
    """Write JSON, see :func:`write_text`; `kwargs` are those of :func:`json.dumps`."""
    return write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, **kwargs) + "\n")


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows; columns are those of all rows, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return Path(path)


def find_images(inputs: Sequence[str | os.PathLike]) -> list[Path]:
    """The image files that files, folders (searched through) and glob patterns name, each once, in a fixed order.

    A file that is named itself is taken whatever its suffix; in folders and patterns the suffix decides.

    Raises:
        InputError: When an input matches nothing.
    """
    found: list[Path] = []
    for text in map(str, inputs):
        path = Path(text)
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            images = _images_below(path)
            if not images:
                raise InputError(f"The folder {text} holds no images.")
            found += images
        else:
            matches = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
            images = [p for p in matches if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES]
            for folder in (p for p in matches if p.is_dir() and "**" not in text):
                images += _images_below(folder)
            if not images:
                pattern = any(mark in text for mark in "*?[")
                raise InputError(f"No image matches {text}." if pattern else f"{text} does not exist: check the path.")
            found += images
    return list(dict.fromkeys(found))


def _images_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
