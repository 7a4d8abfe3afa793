"""Which output stands for which class, and ImageNet-ReaL."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.train.data.datasets import DataError
from backbones.train.evaluation.evaluate import evaluate
from backbones.train.evaluation.labels import match_classes, open_real_labels, read_valid_labels
from backbones.utils.files import write_json
from tests.train.evaluation.test_evaluate import batches, forward


def test_valid_labels_pick_outputs(tmp_path):
    file = tmp_path / "valid.txt"
    file.write_text("7\n2\n")
    assert read_valid_labels(file, 10, 2).tolist() == [7, 2]
    for text, classes, message in (
        ("7\n12\n", 2, "0 to 9"),
        ("7\n", 2, "names 1 outputs"),
        ("cat\n", 1, "one index a line"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            read_valid_labels(file, 10, classes)


def test_classes_are_matched_by_name():
    model = ["a", "b", "c", "d"]
    assert match_classes(model, model, 4) == (None, "")
    assert match_classes([], model, 4) == (None, "")
    outputs, note = match_classes(["d", "b"], model, 4)
    assert outputs.tolist() == [3, 1]
    assert "2 of 4" in note
    assert match_classes(["b", "a", "d", "c"], model, 4)[0].tolist() == [1, 0, 3, 2]
    assert match_classes(["p", "q", "r", "s"], model, 4)[0] is None
    with pytest.raises(DataError, match="4 outputs and digits has 3 classes"):
        match_classes(["p", "q", "r"], model, 4, "digits")


REAL = [[0], [1, 2], [], [7], [3], [4, 5]]


@pytest.fixture
def real_file(tmp_path):
    return write_json(tmp_path / "real.json", REAL)


def test_real_labels(real_file):
    names = [f"some/where/ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(6)]
    order = [3, 0, 2, 4, 5, 1]  # folders sort the files by class, not by number
    said = [7, 1, 0, 6, 5, 2]  # right, wrong, no label, unreadable below, right, right
    logits = nn.functional.one_hot(torch.tensor(said), 8).float() + torch.linspace(0.5, 0, 8)
    labels = torch.tensor([7, 0, 0, -1, 4, 1])
    real = open_real_labels(real_file, [names[i] for i in order])
    result = evaluate(forward(), batches(logits, labels, 4), real=real)
    assert result.real_top1 == pytest.approx(100 * 3 / 4)
    assert result.real_top5 == pytest.approx(100)  # the wrong one says 1, then 0
    assert result.top1 == pytest.approx(100 * 2 / 5)


def test_real_labels_that_do_not_belong(real_file, tmp_path):
    names = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(6)]
    with pytest.raises(DataError, match="labels 6 images and the data has 5"):
        open_real_labels(real_file, names[:5])
    with pytest.raises(DataError, match=r"but the data has cat\.jpg"):
        open_real_labels(real_file, [*names[:5], "cat.jpg"])
    with pytest.raises(DataError, match="list of lists"):
        open_real_labels(write_json(tmp_path / "not.json", {"a": 1}), names)
    with pytest.raises(DataError, match="Cannot read"):
        open_real_labels(tmp_path / "absent.json", names)
