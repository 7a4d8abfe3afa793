"""The data pipelines of the repository's configs, each run on a small data set of the form that it expects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS
from PIL import Image

from backbones.dense.config import datasets
from backbones.dense.config_table import COLUMNS, config_paths

HEIGHT, WIDTH = 96, 128
BOXES = ((8, 10, 56, 60), (60, 30, 120, 90))  # x1, y1, x2, y2


def _distinct() -> dict[str, Config]:
    """One config of every pair of training and validation data."""
    found: dict[str, tuple[str, Config]] = {}
    for task in COLUMNS:
        for path in config_paths(task):
            cfg = Config.fromfile(path)
            found.setdefault(str((cfg.train_dataloader.dataset, cfg.val_dataloader.dataset)), (path.stem, cfg))
    return dict(found.values())


CONFIGS = _distinct()


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _write_instances(path: Path, classes: tuple[str, ...]) -> None:
    annotations = []
    for i, (x1, y1, x2, y2) in enumerate(BOXES):
        polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
        box = [x1, y1, x2 - x1, y2 - y1]
        annotations.append(
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": i + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": [polygon],
            }
        )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    images = [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def _write_panoptic(
    path: Path, folder: Path, things: tuple[str, ...], stuff: tuple[str, ...], stuff_first: bool
) -> None:
    """Two things on one kind of stuff, as COCO's coloured PNG and its json."""
    ids = np.full((HEIGHT, WIDTH), 3)
    for i, (x1, y1, x2, y2) in enumerate(BOXES):
        ids[y1:y2, x1:x2] = i + 1
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([ids % 256, ids // 256, 0 * ids], -1).astype(np.uint8)).save(folder / "a.png")
    segments = [
        {"id": i + 1, "category_id": i + 1, "iscrowd": 0, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": 100}
        for i, (x1, y1, x2, y2) in enumerate(BOXES)
    ]
    segments.append({"id": 3, "category_id": len(things) + 1, "iscrowd": 0, "bbox": [0, 0, WIDTH, HEIGHT], "area": 100})
    categories = [{"id": i + 1, "name": name, "isthing": int(i < len(things))} for i, name in enumerate(things + stuff)]
    if stuff_first:
        categories.sort(key=lambda category: category["isthing"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
                "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
                "categories": categories,
            }
        )
    )


def _write_maps(images: Path, maps: Path, kind: type) -> None:
    """An image in one class, with an unlabelled corner."""
    suffixes = {
        "ADE20KDataset": (".jpg", ".png"),
        "CityscapesDataset": ("_leftImg8bit.png", "_gtFine_labelTrainIds.png"),
    }
    image_suffix, map_suffix = suffixes[kind.__name__]
    _image(images / f"a{image_suffix}")
    labels = np.full((HEIGHT, WIDTH), 7, np.uint8)
    labels[:10, :10] = 0 if kind.__name__ == "ADE20KDataset" else 255
    maps.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(maps / f"a{map_suffix}")


def _dataset(cfg: Config, split: str) -> ConfigDict:
    """A data set's options, out of what repeats it."""
    ((_, options),) = datasets(cfg, [split])
    return options


def _build(cfg: Config, split: str, root: Path):
    """The data set that a config reads, over files below `root`."""
    options = _dataset(cfg, split).copy()
    options["data_root"] = str(root)
    with DATASETS.switch_scope_and_registry(scope=cfg.default_scope) as registry:
        kind = registry.get(options.type)
        prefix = options.data_prefix
        if cfg.default_scope == "mmseg":
            _write_maps(root / prefix.img_path, root / prefix.seg_map_path, kind)
        else:
            _image(root / prefix.img / "a.jpg")
            classes = kind.METAINFO["classes"]
            if "seg" in prefix:
                things, stuff = kind.METAINFO["thing_classes"], kind.METAINFO["stuff_classes"]
                _write_panoptic(
                    root / options.ann_file, root / prefix.seg, tuple(things), tuple(stuff), "ADE" in kind.__name__
                )
            else:
                _write_instances(root / options.ann_file, tuple(classes))
        return registry.build(options)


@pytest.mark.parametrize("name", CONFIGS)
def test_training_data(name, tmp_path):
    cfg = CONFIGS[name]
    dataset = _build(cfg, "train", tmp_path)
    np.random.seed(0)
    assert len(dataset) == 1
    sample = dataset[0]
    image, found = sample["inputs"], sample["data_samples"]
    # mmdet's distortion of colours leaves the range of bytes
    distorted = any(step.type == "PhotoMetricDistortion" for step in _dataset(cfg, "train").pipeline)
    low, high = (-64, 512) if distorted and cfg.default_scope == "mmdet" else (0, 255)
    assert image.shape[0] == 3 and image.min() >= low and image.max() <= high and image.max() > 64
    crops = [step.crop_size for step in _dataset(cfg, "train").pipeline if step.type == "RandomCrop"]
    if crops:
        # mmseg gives height and width, mmdet width and height
        height, width = crops[0] if cfg.default_scope == "mmseg" else crops[0][::-1]
        sides = [image.shape[1:], *(dataset[0]["inputs"].shape[1:] for _ in range(4))]
        assert max(h for h, _ in sides) <= height and max(w for _, w in sides) == width
        assert all(h <= w for h, w in sides)  # as of the image itself
    if cfg.default_scope == "mmseg":
        assert found.gt_sem_seg.data.shape[1:] == image.shape[1:]
        # ADE20K's file counts classes from 1, with 0 for unlabelled
        labels = set(found.gt_sem_seg.data.unique().tolist())
        assert labels <= {6 if "ade20k" in name else 7, 255}
        return
    assert set(found.gt_instances.labels.tolist()) <= {0, 1}
    assert len(found.gt_instances.bboxes) == len(found.gt_instances.labels)
    if "masks" in found.gt_instances:
        assert found.gt_instances.masks.masks.shape[1:] == image.shape[1:]
    if "panoptic" in name:
        # things keep their label, stuff comes after all things, and 255 or more is nothing
        assert {80 if "coco" in name else 100} <= set(found.gt_sem_seg.sem_seg.unique().tolist())


@pytest.mark.parametrize("name", CONFIGS)
def test_validation_data(name, tmp_path):
    cfg = CONFIGS[name]
    sample = _build(cfg, "val", tmp_path)[0]
    found = sample["data_samples"]
    assert found.ori_shape == (HEIGHT, WIDTH)
    assert found.img_shape == tuple(sample["inputs"].shape[1:])
    resize = next(step for step in _dataset(cfg, "val").pipeline if step.type == "Resize")
    height, width = found.img_shape
    assert max(height, width) <= max(resize.scale) and min(height, width) <= min(resize.scale)
    assert max(height, width) == max(resize.scale) or min(height, width) == min(resize.scale)
