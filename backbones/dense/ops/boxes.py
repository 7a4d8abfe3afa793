"""Operators on boxes: mmcv's `nms`, `softnms`, `nms_match` and `bbox_overlaps`.

Boxes are `(N, 4)` corners `x1, y1, x2, y2`, in pixels; `offset` is 1 where the right and lower corner belong to the
box, so that its width is `x2 - x1 + 1`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from backbones.dense.ops.precision import exact

OPERATORS = ("bbox_overlaps", "nms", "nms_match", "softnms")
NAIVE, LINEAR, GAUSSIAN = 0, 1, 2  # soft-nms' methods


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that overlap no better one by more than the threshold, best first."""
    if not len(boxes):
        return torch.empty(0, dtype=torch.long, device=boxes.device)
    boxes = exact(boxes)
    if boxes.dtype == torch.float32:
        iou_threshold = float(np.float32(iou_threshold))  # as overlaps are rounded, 0.3 is not over 0.3
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision_nms(boxes, scores.to(boxes.dtype), iou_threshold)


def _overlaps(box: np.ndarray, others: np.ndarray, offset: int = 0) -> np.ndarray:
    """Intersection over union of one box with others."""
    left, top = np.maximum(box[0], others[:, 0]), np.maximum(box[1], others[:, 1])
    right, bottom = np.minimum(box[2], others[:, 2]), np.minimum(box[3], others[:, 3])
    zero = box.dtype.type(0)
    both = np.maximum(zero, right - left + offset) * np.maximum(zero, bottom - top + offset)
    area = (box[2] - box[0] + offset) * (box[3] - box[1] + offset)
    areas = (others[:, 2] - others[:, 0] + offset) * (others[:, 3] - others[:, 1] + offset)
    with np.errstate(invalid="ignore", divide="ignore"):
        return both / (area + areas - both)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., 2017, algorithm 1): the best box lowers the scores of those that overlap it, repeatedly.

    Writes kept boxes with their lowered scores to the first rows of `dets`, `(N, 5)`, and returns their indices.
    Among equal scores, boxes come in the order of mmcv, which moves the last box to the place of one that is dropped.
    """
    rows = exact(torch.cat([boxes, scores[:, None].to(boxes.dtype)], dim=1).cpu()).numpy().copy()
    indices = np.arange(len(rows))
    count = len(rows)
    real = rows.dtype.type
    iou_threshold, sigma, min_score = real(iou_threshold), real(sigma), real(min_score)
    best = 0
    while best < count:
        top = best + int(rows[best:count, 4].argmax())
        rows[[best, top]], indices[[best, top]] = rows[[top, best]], indices[[top, best]]
        rest = rows[best + 1 : count]
        overlaps = _overlaps(rows[best], rest, offset)
        if method == GAUSSIAN:
            rest[:, 4] *= np.exp(-(overlaps * overlaps) / sigma)
        else:
            over = overlaps >= iou_threshold
            rest[over, 4] *= 1 - overlaps[over] if method == LINEAR else real(0)
        kept = ~(rest[:, 4] < min_score)
        left = int(kept.sum())
        holes = np.flatnonzero(~kept[:left])
        movers = left + np.flatnonzero(kept[left:])[::-1]
        rest[holes] = rest[movers]
        indices[best + 1 : count][holes] = indices[best + 1 : count][movers]
        best += 1
        count = best + left
    dets[:count] = torch.from_numpy(rows[:count])
    return torch.from_numpy(indices[:count].copy())


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes, best first: one that nms keeps, and those that it drops for it. `dets` are `(N, 5)` with scores.

    Unlike `nms`, a box is dropped where the overlap equals the threshold, too.
    """
    dets = exact(dets.detach().cpu())
    order = dets[:, 4].sort(descending=True, stable=True).indices.numpy()
    rows = dets.numpy()[order]
    iou_threshold = rows.dtype.type(iou_threshold)
    groups = []
    while len(order):
        drop = _overlaps(rows[0], rows) >= iou_threshold
        drop[0] = True  # a box without area does not overlap itself
        groups.append(order[drop].tolist())
        rows, order = rows[~drop], order[~drop]
    return groups


@torch.no_grad()
def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Overlaps of boxes over their union (mode 0) or over the first box (mode 1), of all pairs or of aligned boxes."""
    first, second = exact(bboxes1), exact(bboxes2)
    if not aligned:
        first = first[:, None]
    size = (
        torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2]) + offset
    ).clamp(min=0)
    both = size.prod(-1)
    whole = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if mode == 0:
        whole = whole + (second[..., 2:] - second[..., :2] + offset).prod(-1) - both
    ious.copy_(both / whole)
