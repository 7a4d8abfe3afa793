"""Panoptic data and panoptic quality for mmdet, without the package `panopticapi`, which no package registry has.

Configs import it by name: `custom_imports = dict(imports=["backbones.dense", "backbones.dense.panoptic"])`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mmcv
import numpy as np
from mmdet.datasets import ADE20KPanopticDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.datasets.transforms import LoadPanopticAnnotations as _LoadPanopticAnnotations
from mmdet.structures import INSTANCE_OFFSET
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry

SCOPE = "backbones"
DATASETS = Registry("dataset", parent=ROOT_DATASETS, scope=SCOPE)
METRICS = Registry("metric", parent=ROOT_METRICS, scope=SCOPE)
TRANSFORMS = Registry("transform", parent=ROOT_TRANSFORMS, scope=SCOPE)

VOID = -1


def segment_ids(rgb: np.ndarray) -> np.ndarray:
    """Ids of COCO's panoptic PNGs: `(H, W, 3)` colours to `(H, W)` numbers R + 256 G + 65536 B."""
    return rgb.astype(np.int64) @ np.array([1, 256, 65536])


@TRANSFORMS.register_module()
class LoadPanopticAnnotations(_LoadPanopticAnnotations):
    """As mmdet's transform of that name, arguments included."""

    def __init__(self, with_seg: bool = True, with_mask: bool = True, **kwargs: Any) -> None:
        LoadAnnotations.__init__(self, with_seg=with_seg, with_mask=with_mask, **kwargs)
        self.rgb2id = segment_ids


@DATASETS.register_module()
class ADE20KPanoptic(ADE20KPanopticDataset):
    """ADE20K panoptic with labels by name: 100 things, then 50 stuff regions, in whatever order the file has them."""

    METAINFO = {
        **ADE20KPanopticDataset.METAINFO,
        "thing_classes": ADE20KPanopticDataset.METAINFO["classes"][:100],
    }

    def load_data_list(self) -> list[dict]:
        self._by_name: dict[int, int] | None = None
        return super().load_data_list()

    def parse_data_info(self, raw_data_info: dict) -> dict:
        if self._by_name is None:
            labels = {name: label for label, name in enumerate(self.metainfo["classes"])}
            categories = self.coco.dataset["categories"]
            unknown = [category["name"] for category in categories if category["name"] not in labels]
            if unknown:
                raise ValueError(f"{self.ann_file} has categories that ADE20K has not: {', '.join(unknown[:5])}")
            self._by_name = {category["id"]: labels[category["name"]] for category in categories}
        self.cat2label = self._by_name
        return super().parse_data_info(raw_data_info)


@METRICS.register_module()
class PanopticQuality(BaseMetric):
    """Panoptic quality (Kirillov et al., CVPR 2019, arXiv 1801.00868, section 4), in percent.

    Of every class, segments of the same label match where their IoU exceeds 0.5; PQ is the sum of the matches' IoUs
    over TP + FP / 2 + FN / 2, and the mean over the classes that occur. Unlabelled pixels count for no IoU. Predicted
    segments that lie by more than half on unlabelled pixels or crowds of their class are no errors; crowds are never
    missed. `PQ_th` and `PQ_st` are the means over things and stuff.

    Needs `segments_info` and `seg_map_path` among the `meta_keys` that `PackDetInputs` packs.
    """

    default_prefix = "panoptic"

    def __init__(self, backend_args: dict | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backend_args = backend_args

    @property
    def num_things(self) -> int:
        return len(self.dataset_meta["thing_classes"])

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        num_classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            content = get(sample["seg_map_path"], backend_args=self.backend_args)
            truth = segment_ids(mmcv.imfrombytes(content, flag="color", channel_order="rgb"))
            found = sample["pred_panoptic_seg"]["sem_seg"][0].cpu().numpy().astype(np.int64)
            counts = match_segments(truth, sample["segments_info"], found, num_classes, self.num_things)
            self.results.append(counts)

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        iou, tp, fp, fn = np.sum(results, axis=0)
        weight = tp + fp / 2 + fn / 2
        occurs = weight > 0
        quality = np.divide(iou, weight, out=np.zeros_like(iou), where=occurs) * 100
        segmentation = np.divide(iou, tp, out=np.zeros_like(iou), where=tp > 0) * 100
        recognition = np.divide(tp, weight, out=np.zeros_like(iou), where=occurs) * 100
        things = np.arange(len(iou)) < self.num_things
        means = {"PQ": (quality, occurs), "SQ": (segmentation, occurs), "RQ": (recognition, occurs)}
        means |= {"PQ_th": (quality, occurs & things), "PQ_st": (quality, occurs & ~things)}
        return {name: float(values[where].mean()) if where.any() else 0.0 for name, (values, where) in means.items()}


def match_segments(
    truth: np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    found: np.ndarray,
    num_classes: int,
    num_things: int,
) -> np.ndarray:
    """What one image adds to the counts of every class.

    Args:
        truth: `(H, W)` ids of the annotated segments; other ids are unlabelled.
        segments: Their `id`, `category` (label) and `is_thing`, which is false for crowds of things.
        found: `(H, W)` predicted ids: label + instance * `INSTANCE_OFFSET`; a label of `num_classes` is nothing.
        num_classes, num_things: Labels below `num_things` are things.

    Returns:
        `(4, num_classes)`: sums of the matches' IoUs, true positives, false positives, false negatives.
    """
    counts = np.zeros((4, num_classes))
    label_of = {segment["id"]: segment["category"] for segment in segments}
    crowds = {s["id"] for s in segments if s["category"] < num_things and not s["is_thing"]}
    truth = np.where(np.isin(truth, list(label_of)), truth, VOID)
    pairs, overlaps = np.unique(np.stack([truth.ravel(), found.ravel()]), axis=1, return_counts=True)
    overlap = {(t, f): n for t, f, n in zip(*pairs.tolist(), overlaps.tolist())}
    truth_area = dict(zip(*(a.tolist() for a in np.unique(truth, return_counts=True))))
    found_area = dict(zip(*(a.tolist() for a in np.unique(found, return_counts=True))))
    found_area = {f: n for f, n in found_area.items() if f % INSTANCE_OFFSET < num_classes}
    matched: set[tuple[str, int]] = set()
    for (t, f), n in overlap.items():
        if t == VOID or t in crowds or f not in found_area or label_of[t] != f % INSTANCE_OFFSET:
            continue
        iou = n / (truth_area[t] + found_area[f] - n - overlap.get((VOID, f), 0))
        if iou > 0.5:
            counts[:2, label_of[t]] += iou, 1
            matched |= {("truth", t), ("found", f)}
    for t in truth_area:
        if t != VOID and t not in crowds and ("truth", t) not in matched:
            counts[3, label_of[t]] += 1
    for f, area in found_area.items():
        label = f % INSTANCE_OFFSET
        ignored = overlap.get((VOID, f), 0) + sum(overlap.get((t, f), 0) for t in crowds if label_of[t] == label)
        if ("found", f) not in matched and ignored <= area / 2:
            counts[2, label] += 1
    return counts
