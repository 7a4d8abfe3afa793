"""Detectors and segmentors of the repository's configs at test size, and batches of random images with labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from backbones.dense.config_table import CONFIGS

SIDE = 64


def read(path: str, options: dict[str, Any] | None = None) -> Config:
    """A config below `configs/` for images of `SIDE` pixels and few regions, without weights and stochastic depth."""
    cfg = Config.fromfile(CONFIGS / path)
    small = {"model.backbone.pretrained": False}
    if "drop_path_rate" in cfg.model.backbone:
        small["model.backbone.drop_path_rate"] = 0.0
    if cfg.model.data_preprocessor.get("size"):
        small["model.data_preprocessor.size"] = (SIDE, SIDE)
    else:
        small["model.data_preprocessor.pad_size_divisor"] = 32
    for i, _ in enumerate(cfg.model.data_preprocessor.get("batch_augments") or ()):
        small[f"model.data_preprocessor.batch_augments.{i}.size"] = (SIDE, SIDE)
    if "img_size" in cfg.model.backbone:
        small["model.backbone.img_size"] = 224
    if "rpn_proposal" in cfg.model.get("train_cfg", {}):
        small["model.train_cfg.rpn_proposal.max_per_img"] = small["model.test_cfg.rpn.max_per_img"] = 50
        stages = cfg.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 16
    cfg.merge_from_dict({**small, **(options or {})})
    return cfg


def detection_batch(num_classes: int = 80, panoptic: bool = False) -> dict[str, list]:
    """Two images with two boxes and masks each, and a map of all regions where `panoptic`."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for _ in range(2):
        inputs.append(torch.randint(256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8))
        boxes = torch.tensor([[4.0, 6.0, 36.0, 40.0], [20.0, 16.0, 60.0, 62.0]])
        masks = np.zeros((2, SIDE, SIDE), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        labels = torch.randint(num_classes, (2,), generator=generator)
        sample = DetDataSample(metainfo=_metainfo())
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(masks, SIDE, SIDE))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        if panoptic:
            regions = torch.full((1, SIDE, SIDE), 80)  # the first kind of stuff
            regions[:, :8] = 255
            sample.gt_sem_seg = PixelData(sem_seg=regions)
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def segmentation_batch(num_classes: int = 150) -> dict[str, list]:
    """Two images with a class at every pixel, but for an unlabelled border."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for _ in range(2):
        inputs.append(torch.randint(256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8))
        classes = torch.randint(num_classes, (1, 4, 4), generator=generator)
        labels = classes.repeat_interleave(SIDE // 4, 1).repeat_interleave(SIDE // 4, 2)
        labels[:, :4] = 255
        sample = SegDataSample(metainfo=_metainfo())
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def _metainfo() -> dict[str, Any]:
    return {"img_shape": (SIDE, SIDE), "ori_shape": (SIDE, SIDE), "scale_factor": (1.0, 1.0), "img_id": 0}
