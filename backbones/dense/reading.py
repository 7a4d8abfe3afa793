"""Reading many image files to check them: all, or a sample where a run is about to start."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

_T = TypeVar("_T")
_SAMPLE = 16  # files of a kind that are opened before a run
_TURNED = (5, 6, 7, 8)  # values of EXIF's orientation with height and width exchanged
_ORIENTATION = 0x0112


class Reader:
    """Which files are opened, and which are there.

    Args:
        whole: Open all files, not a sample.
        progress: Given an iterable, its length and what it is, the same iterable, watched.
    """

    def __init__(
        self, whole: bool = False, progress: Callable[[Iterable, int, str], Iterable] = lambda items, *_: items
    ) -> None:
        self.whole, self.track = whole, progress
        self._folders: dict[str, set[str]] = {}

    def some(self, items: Sequence[_T]) -> list[_T]:
        """All items, or a sample of them spread over all."""
        return list(items) if self.whole else list(items[:: max(len(items) // _SAMPLE, 1)])

    def exists(self, path: Path) -> bool:
        """Whether a file is there; each folder is read once."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            try:
                with os.scandir(folder) as entries:
                    self._folders[folder] = {entry.name for entry in entries}
            except OSError:
                self._folders[folder] = set()
        return name in self._folders[folder]


def image_size(path: Path) -> tuple[int, int] | str:
    """Height and width as loaders see them, that is, turned upright by EXIF, from the file's header alone.

    Returns:
        Both, or what is wrong with the file, as the rest of a sentence.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    except FileNotFoundError:
        return "is not there"
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return "cannot be read as an image" if path.is_file() and path.stat().st_size else "cannot be read: it is empty"
    return (width, height) if turned else (height, width)


def mapped(function: Callable[[_T], Any], items: Sequence[_T]) -> Iterator[Any]:
    """`function` of every item, by threads, in order."""
    with ThreadPoolExecutor() as pool:
        yield from pool.map(function, items)
