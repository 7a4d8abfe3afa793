"""Panoptic quality against numbers worked out by hand, and ADE20K's labels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import INSTANCE_OFFSET

from backbones.dense.panoptic import ADE20KPanoptic, PanopticQuality, match_segments, segment_ids

THING = {"id": 10, "category": 0, "is_thing": True}
OTHER = {"id": 11, "category": 1, "is_thing": True}
CROWD = {"id": 12, "category": 1, "is_thing": False}
STUFF = {"id": 2000, "category": 2, "is_thing": False}


def test_segment_ids_are_cocos():
    assert segment_ids(np.array([[[3, 2, 1]]], np.uint8)) == [[3 + 256 * 2 + 65536]]


def test_iou_leaves_out_what_is_unlabelled():
    truth = np.array([[10, 10, 10, 10, 0, 0, 2000, 2000, 2000, 2000]])
    found = np.array([[0, 0, 0, 0, 0, 2, 2, 2, 2, 1000]])  # 1000: class 0 again, with another number
    iou, tp, fp, fn = match_segments(truth, [THING, STUFF], found, 3, 2)
    # the thing: 4 of 4, its fifth pixel being unlabelled; stuff: 3 of 4; pixel 9 is a wrong second thing
    np.testing.assert_allclose(iou, [1, 0, 0.75])
    np.testing.assert_array_equal([tp, fp, fn], [[1, 0, 1], [1, 0, 0], [0, 0, 0]])


def test_half_an_overlap_is_no_match():
    truth = np.array([[10, 10, 2000, 2000]])
    found = np.array([[0, 2, 2, 2]])
    iou, tp, fp, fn = match_segments(truth, [THING, STUFF], found, 3, 2)
    np.testing.assert_allclose(iou, [0, 0, 2 / 3])
    np.testing.assert_array_equal([tp, fp, fn], [[0, 0, 1], [1, 0, 0], [1, 0, 0]])


def test_crowds_are_neither_missed_nor_wrong():
    truth = np.array([[12, 12, 12, 12, 11, 11]])
    found = np.array([[1, 1, 1, 3, 1 + INSTANCE_OFFSET, 1 + INSTANCE_OFFSET]])  # 3 is nothing
    iou, tp, fp, fn = match_segments(truth, [CROWD, OTHER], found, 3, 2)
    np.testing.assert_array_equal([iou, tp, fp, fn], [[0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_a_segment_of_another_class_is_wrong_and_missed():
    found = np.full((1, 4), 1)
    _, tp, fp, fn = match_segments(np.full((1, 4), 10), [THING], found, 3, 2)
    np.testing.assert_array_equal([tp, fp, fn], [[0, 0, 0], [0, 1, 0], [1, 0, 0]])


def test_metric_averages_over_the_classes_that_occur(tmp_path):
    colours = np.zeros((1, 6, 3), np.uint8)
    colours[:, :3, 2], colours[:, 3:] = 10, (0, 7, 208)  # BGR of 10 and of 2000
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, colours)
    metric = PanopticQuality()
    metric.dataset_meta = {"classes": ("a", "b", "c"), "thing_classes": ("a", "b")}
    found = torch.tensor([[[INSTANCE_OFFSET, INSTANCE_OFFSET, INSTANCE_OFFSET, 2, 2, 3]]])
    metric.process(
        None,
        [{"seg_map_path": path, "segments_info": [THING, STUFF], "pred_panoptic_seg": {"sem_seg": found}}],
    )
    result = metric.evaluate(size=1)
    expected = {"PQ": (100 + 200 / 3) / 2, "SQ": (100 + 200 / 3) / 2, "RQ": 100, "PQ_th": 100, "PQ_st": 200 / 3}
    assert result == pytest.approx({f"panoptic/{key}": value for key, value in expected.items()})


def test_ade20k_has_things_first():
    meta = ADE20KPanoptic.METAINFO
    assert (len(meta["thing_classes"]), len(meta["stuff_classes"])) == (100, 50)
    assert meta["classes"] == meta["thing_classes"] + meta["stuff_classes"]
