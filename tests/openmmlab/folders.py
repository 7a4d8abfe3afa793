"""Small data sets of coloured shapes in the folders that COCO and ADE20K use, and configs that learn them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.dense.config_table import CONFIGS

SIDE = 64
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220)}


def _scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image of one square of every colour on grey, and the number of the colour at every pixel, 0 for grey."""
    image = rng.integers(90, 130, size=(SIDE, SIDE, 3), dtype=np.uint8)
    numbers = np.zeros((SIDE, SIDE), np.uint8)
    corners = rng.permutation(4)
    for i, colour in enumerate(COLOURS.values()):
        side = int(rng.integers(16, 28))
        y, x = (corners[i] // 2) * 32 + int(rng.integers(0, 32 - side)), (corners[i] % 2) * 32 + 2
        image[y : y + side, x : x + side] = colour
        numbers[y : y + side, x : x + side] = i + 1
    return image, numbers


def write_coco(root: Path, count: int = 8) -> Path:
    """`train2017`, `val2017` and `annotations/instances_*2017.json`."""
    for seed, split in enumerate(("train", "val")):
        rng = np.random.default_rng(seed)
        folder = root / f"{split}2017"
        folder.mkdir(parents=True)
        images, annotations = [], []
        for i in range(count):
            image, numbers = _scene(rng)
            Image.fromarray(image).save(folder / f"{i:012d}.jpg", quality=95)
            images.append({"id": i, "file_name": f"{i:012d}.jpg", "height": SIDE, "width": SIDE})
            for number in range(1, len(COLOURS) + 1):
                ys, xs = np.nonzero(numbers == number)
                x1, y1, x2, y2 = (int(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i,
                        "category_id": 10 * number,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                    }
                )
        categories = [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(COLOURS)]
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


def write_ade(root: Path, count: int = 8) -> Path:
    """`images/{training,validation}` and `annotations/{training,validation}`, classes counted from 1."""
    for seed, split in enumerate(("training", "validation")):
        rng = np.random.default_rng(seed)
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            image, numbers = _scene(rng)
            Image.fromarray(image).save(root / "images" / split / f"ADE_{i:08d}.jpg", quality=95)
            Image.fromarray(numbers).save(root / "annotations" / split / f"ADE_{i:08d}.png")
    return root


_BACKBONE = 'backbone=dict(model="nat_m", dims=(32, 32, 64, 64), depths=(1, 1, 1, 1), kernel_size=3)'
_OPTIMISER = (
    'optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.001), clip_grad=dict(max_norm=5.0))'
)


def detection_config(path: Path) -> Path:
    """A user's config over this repository's: small images, a small NAT, Mask R-CNN."""
    base = [str(CONFIGS / "_base_" / part) for part in ("models/mask-rcnn.py", "datasets/coco.py")]
    base += [str(CONFIGS / "_base_" / part) for part in ("schedules/coco_1x.py", "detection_runtime.py")]
    path.write_text(
        f"""_base_ = {base}
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
test = [dict(type="Resize", scale=({SIDE}, {SIDE}), keep_ratio=True), dict(type="PackDetInputs", meta_keys=meta)]
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(
    filter_cfg=dict(min_size=1), pipeline=[*load, dict(type="RandomFlip", prob=0.5), dict(type="PackDetInputs")]))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=[*load, *test]))
test_dataloader = val_dataloader
model = dict(
    {_BACKBONE},
    neck=dict(in_channels=[32, 32, 64, 64], out_channels=32, num_outs=4),
    rpn_head=dict(in_channels=32, feat_channels=32, anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=64),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=16, num_convs=1),
    ),
    train_cfg=dict(rpn=dict(sampler=dict(num=32)), rpn_proposal=dict(max_per_img=50), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(max_per_img=30)),
)
train_cfg = dict(max_epochs=12, val_interval=6)
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=5)]
{_OPTIMISER}
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=6))
randomness = dict(seed=0)
"""
    )
    return path


def segmentation_config(path: Path) -> Path:
    """A user's config over this repository's: small images, a small NAT, Semantic FPN."""
    base = [str(CONFIGS / "_base_" / part) for part in ("models/semantic-fpn.py", "datasets/ade20k.py")]
    base += [str(CONFIGS / "_base_" / part) for part in ("schedules/ade20k_80k.py", "segmentation_runtime.py")]
    path.write_text(
        f"""_base_ = {base}
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", reduce_zero_label=True)]
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(
    pipeline=[*load, dict(type="RandomFlip", prob=0.5), dict(type="PackSegInputs")]))
test = [*load, dict(type="PackSegInputs")]
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=({SIDE}, {SIDE})),
    {_BACKBONE},
    neck=dict(in_channels=[32, 32, 64, 64], out_channels=32),
    decode_head=dict(in_channels=[32, 32, 32, 32], channels=32),
)
train_cfg = dict(max_iters=24, val_interval=12)
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=5)]
{_OPTIMISER}
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=12))
env_cfg = dict(cudnn_benchmark=False)
randomness = dict(seed=0)
"""
    )
    return path
