"""What is wrong with COCO's annotation files, of instances and panoptic: a sentence with file and id for each."""

from __future__ import annotations

import json
import math
import mmap
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backbones.dense.errors import DenseError
from backbones.dense.reading import Reader, image_size, mapped
from backbones.utils.text import first_line

_LISTS = ("images", "annotations", "categories")
_MAX_SHOWN = 60  # characters of a wrong value in a message


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
        raise DenseError(f"{path} is not a COCO file ({first_line(error)}): write it anew.") from error


@dataclass
class CocoFile:
    """A COCO file to look into, and what the config reads with it.

    Args:
        path: The file.
        images: Folder of the images.
        maps: Folder of the panoptic maps, of a panoptic file.
        masks: Whether the config reads masks.
    """

    path: Path
    images: Path
    maps: Path | None = None
    masks: bool = False

    def problems(self, reader: Reader, remarks: list[str]) -> Iterator[str]:
        """Every problem, a sentence; what only deserves a remark is appended to `remarks`."""
        try:
            content = json.loads(self.path.read_bytes())
        except (OSError, ValueError) as error:
            yield f"{self.path} is not a COCO file ({error}): write it anew."
            return
        lists = {key: content.get(key) if isinstance(content, Mapping) else None for key in _LISTS}
        for key, value in lists.items():
            if not isinstance(value, list) or not value or not all(isinstance(entry, Mapping) for entry in value):
                what = "an empty list" if value == [] else "no list"
                yield f"{self.path} has {what} of {key}: write one with an entry for each."
        if not all(isinstance(value, list) for value in lists.values()):
            return
        images, annotations, categories = ([e for e in lists[key] if isinstance(e, Mapping)] for key in _LISTS)
        yield from self._repeated("category", categories)
        yield from self._repeated("image", images)
        sound = {image["id"]: image for image in images if _is_id(image.get("id"))}
        for image in images:
            yield from self._of_image(image)
        yield from self._of_files([image for image in images if isinstance(image.get("file_name"), str)], reader)
        known = {category["id"] for category in categories if _is_id(category.get("id"))}
        if any("segments_info" in annotation for annotation in annotations[:1]):
            yield from self._panoptic(annotations, sound, known, reader)
            return
        yield from self._repeated("annotation", annotations)
        left_out = []
        for annotation in annotations:
            known_sound = _sound(annotation, sound, known, self.masks)
            found = [] if known_sound else list(_of_annotation(annotation, sound, known, self.masks))
            for problem in found:
                yield f"{self.path}: {_name('annotation', annotation, sound)} {problem}."
            if not found and _outside(annotation["bbox"], annotation["area"], sound[annotation["image_id"]]):
                left_out.append(annotation.get("id"))
        if left_out:
            remarks.append(
                f"{self.path}: {len(left_out)} of {len(annotations)} annotations are left out, as their box is empty "
                f"or outside of the image, such as annotation {left_out[0]}"
            )

    def _repeated(self, kind: str, entries: Sequence[Mapping]) -> Iterator[str]:
        counts = Counter(entry["id"] for entry in entries if _is_id(entry.get("id")))
        for number, count in counts.items():
            if count > 1:
                yield f"{self.path}: {count} entries have the {kind} id {number}: number them apart."
        for index, entry in enumerate(entries):
            if not _is_id(entry.get("id")):
                yield f"{self.path}: {kind} number {index + 1} of the list has no id: give it one of its own."

    def _of_image(self, image: Mapping) -> Iterator[str]:
        name = _name("image", image)
        if not isinstance(image.get("file_name"), str):
            yield f"{self.path}: {name} has no file_name: write its file's, below {self.images}."
        for side in ("height", "width"):
            if side not in image:
                yield f"{self.path}: {name} has no {side}: write that of its file, in pixels."
            elif not _is_number(image[side]) or image[side] < 1:
                yield f"{self.path}: {name} has the {side} {_shown(image[side])}: write that of its file, in pixels."

    def _of_files(self, images: Sequence[Mapping], reader: Reader) -> Iterator[str]:
        """Missing files, and those whose size is another than the stated one (of a sample, or of all)."""
        there = [image for image in images if reader.exists(self.images / image["file_name"])]
        if len(there) < len(images):
            found = {image["file_name"] for image in there}
            for image in images:
                if image["file_name"] not in found:
                    yield (
                        f"{self.path}: the file of {_name('image', image)} is not in {self.images}: put it there, or "
                        "take it out of the annotations."
                    )
        stated = reader.some([i for i in there if _is_number(i.get("height")) and _is_number(i.get("width"))])
        sizes = mapped(lambda image: image_size(self.images / image["file_name"]), stated)
        for image, size in zip(stated, reader.track(sizes, len(stated), "images")):
            yield from self._compare(_name("image", image), image, size)

    def _compare(self, name: str, image: Mapping, size: tuple[int, int] | str) -> Iterator[str]:
        if isinstance(size, str):
            yield f"{self.path}: the file of {name} {size}: replace it, or take it out of the annotations."
        elif size != (image["height"], image["width"]):
            yield (
                f"{self.path}: {name} is stated to have {image['height']} x {image['width']} pixels (height x width), "
                f"but its file has {size[0]} x {size[1]}: write the file's."
            )

    def _panoptic(self, annotations: Sequence[Mapping], images: Mapping, known: set, reader: Reader) -> Iterator[str]:
        for number, count in Counter(str(a.get("image_id")) for a in annotations).items():
            if count > 1:
                yield f"{self.path}: image {number} has {count} annotations: write one for each image."
        annotated = {a.get("image_id") for a in annotations if _is_id(a.get("image_id"))}
        for number, image in images.items():
            if number not in annotated:
                yield f"{self.path}: {_name('image', image)} has no annotation: write one, or take it out."
        readable = []
        for annotation in annotations:
            image = images.get(annotation.get("image_id")) if _is_id(annotation.get("image_id")) else None
            segments = annotation.get("segments_info")
            if image is None:
                number = _shown(annotation.get("image_id"))
                yield f"{self.path}: an annotation is of the image {number}, which is not in the list: add it there."
                continue
            where = f"the annotation of {_name('image', image)}"
            if not isinstance(segments, list) or not all(isinstance(s, Mapping) for s in segments):
                yield f"{self.path}: {where} has no segments_info: write its segments, or take it out."
                continue
            repeated = [n for n, count in Counter(str(s.get("id")) for s in segments).items() if count > 1]
            if repeated:
                yield f"{self.path}: {where} has several segments of the id {repeated[0]}: number them apart."
            for segment in segments:
                for problem in _of_region(segment, known):
                    yield f"{self.path}: segment {_shown(segment.get('id'))} of {_name('image', image)} {problem}."
            if not isinstance(annotation.get("file_name"), str):
                yield f"{self.path}: {where} has no file_name: write that of its map, below {self.maps}."
            elif not reader.exists(self.maps / annotation["file_name"]):
                yield f"{self.path}: the map {self.maps / annotation['file_name']} is not there: put it there."
            elif _is_number(image.get("height")) and _is_number(image.get("width")):
                readable.append((annotation, image))
        read = reader.some(readable)
        found = mapped(lambda pair: self._of_map(*pair, whole=reader.whole), read)
        for problems in reader.track(found, len(read), "maps"):
            yield from problems

    def _of_map(self, annotation: Mapping, image: Mapping, whole: bool) -> list[str]:
        path = self.maps / annotation["file_name"]
        size = image_size(path)
        if isinstance(size, str):
            return [f"The map {path} {size}: write it anew, or take it out of {self.path}."]
        problems = []
        if size != (image["height"], image["width"]):
            problems.append(
                f"The map {path} has {size[0]} x {size[1]} pixels (height x width), but {_name('image', image)} of "
                f"{self.path} {image['height']} x {image['width']}: write it anew."
            )
        try:
            with Image.open(path) as file:
                if file.mode != "RGB":
                    return [
                        *problems,
                        f"The map {path} is no picture of RGB colours, which code the segments: write it anew.",
                    ]
                pixels = np.asarray(file).astype(np.int64) if whole else None
        except (OSError, SyntaxError, ValueError) as error:
            return [f"The map {path} cannot be read ({error}): write it anew."]
        if pixels is not None:
            drawn = set(np.unique(pixels @ np.array([1, 256, 65536])).tolist()) - {0}
            listed = {segment["id"] for segment in annotation["segments_info"] if _is_id(segment.get("id"))}
            for number in sorted(drawn - listed):
                problems.append(f"The map {path} holds the segment {number}, which {self.path} does not list: add it.")
            for number in sorted(str(n) for n in listed - drawn):
                problems.append(
                    f"The map {path} does not hold the segment {number} that {self.path} lists: take it out."
                )
        return problems


def _name(kind: str, entry: Mapping, images: Mapping | None = None) -> str:
    """`image 12 (a.jpg)`, or `annotation 7 (image a.jpg)`."""
    if images is None:
        return f"{kind} {_shown(entry.get('id'))} ({_shown(entry.get('file_name'))})"
    image = images.get(entry.get("image_id")) if _is_id(entry.get("image_id")) else None
    return f"{kind} {_shown(entry.get('id'))}" + (f" (image {image.get('file_name')})" if image else "")


def _shown(value: Any) -> str:
    text = "without" if value is None else str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _sound(annotation: Mapping, images: Mapping, known: set, masks: bool) -> bool:
    """Whether an annotation is plainly right: of a million, all but a few are, and this looks at them at once."""
    try:
        x, y, width, height = annotation["bbox"]
        return (
            annotation["image_id"] in images
            and annotation["category_id"] in known
            and math.isfinite(x + y + width + height + annotation["area"])
            and min(width, height, annotation["area"]) >= 0
            and annotation["iscrowd"] in (0, 1)
            and (not masks or all(_is_polygon(part) for part in annotation["segmentation"] or [()]))
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


def _is_polygon(part: Any) -> bool:
    return isinstance(part, list) and len(part) >= 6 and not len(part) % 2 and math.isfinite(sum(part))


def _of_annotation(annotation: Mapping, images: Mapping, known: set, masks: bool) -> Iterator[str]:
    image = annotation.get("image_id")
    if not _is_id(image) or image not in images:
        yield f"is of the image {_shown(image)}, which is not in the list of images: add it there, or take it out"
    yield from _of_region(annotation, known)
    if masks:
        yield from _of_segmentation(annotation.get("segmentation"))


def _of_region(region: Mapping, known: set) -> Iterator[str]:
    """What an instance or a panoptic segment must have: a category, a box, an area and whether it is a crowd."""
    category = region.get("category_id")
    if not _is_id(category) or category not in known:
        yield f"is of the category {_shown(category)}, which is not in the list of categories: add or correct it"
    box = region.get("bbox")
    if box is None or box == []:
        yield "has no bbox: write x, y, width and height in pixels"
    elif not isinstance(box, list) or len(box) != 4:
        count = f"of {len(box)} numbers" if isinstance(box, list) else _shown(box)
        yield f"has a bbox {count}: write x, y, width and height in pixels"
    elif not all(map(_is_number, box)) or min(box[2:]) < 0:
        yield f"has the bbox {_shown(box)}: write x, y, width and height in pixels"
    if "area" not in region:
        yield "has no area: write that of its mask in pixels"
    elif not _is_number(region["area"]) or region["area"] < 0:
        yield f"has the area {_shown(region['area'])}: write that of its mask in pixels"
    if region.get("iscrowd") not in (0, 1):
        what = f"the iscrowd {_shown(region['iscrowd'])}" if "iscrowd" in region else "no iscrowd"
        yield f"has {what}: write 0, or 1 for a group of objects under one mask"


def _of_segmentation(segmentation: Any) -> Iterator[str]:
    if not segmentation:
        what = "no" if segmentation is None else "an empty"
        yield f"has {what} segmentation, which this config reads: write polygons or run lengths, or take it out"
    elif isinstance(segmentation, Mapping):
        size = segmentation.get("size")
        if not isinstance(segmentation.get("counts"), list | str) or not isinstance(size, list) or len(size) != 2:
            yield "has a segmentation without counts or size: write both, as COCO's run lengths have them"
    elif not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        yield "has a segmentation that is no list of polygons: write [[x1, y1, x2, y2, x3, y3, ...], ...]"
    else:
        for polygon in segmentation:
            if len(polygon) < 6 or len(polygon) % 2:
                yield f"has a polygon of {len(polygon)} numbers: write three corners or more, of x and y each"
            elif not all(map(_is_number, polygon)):
                yield "has a polygon with values that are no finite numbers: correct them"


def _outside(box: Sequence[float], area: float, image: Mapping) -> bool:
    """Whether mmdet passes an annotation by."""
    x, y, width, height = box
    if not _is_number(image.get("width")) or not _is_number(image.get("height")):
        return False
    across = min(x + width, image["width"]) - max(x, 0)
    down = min(y + height, image["height"]) - max(y, 0)
    return area <= 0 or width < 1 or height < 1 or across <= 0 or down <= 0
