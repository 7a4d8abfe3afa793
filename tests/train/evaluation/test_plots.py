from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from backbones.train.evaluation.plots import SheetItem, most_confused, plot_confusion, plot_curves, plot_sheet

ROWS = [
    {"epoch": i, "train_loss": 2.0 / (i + 1), "eval_loss": 2.2 / (i + 1), "eval_top1": 50.0 + i, "lr": 1e-3 / (i + 1)}
    for i in range(6)
]


def _pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def _share(path, colour: tuple[int, int, int]) -> float:
    """Share of pixels of nearly this colour."""
    return float((np.abs(_pixels(path) - colour).max(axis=2) < 12).mean())


def test_curves_from_csv_strings_equal_curves_from_numbers(tmp_path):
    with open(tmp_path / "summary.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)
    with open(tmp_path / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = plot_curves(ROWS, tmp_path / "numbers.png")
    strings = plot_curves(rows, tmp_path / "strings.png")
    assert np.array_equal(_pixels(numbers), _pixels(strings))
    assert not list(tmp_path.glob(".*"))  # nothing half-written is left beside the picture


def test_curves_panels_follow_the_columns(tmp_path):
    four = _pixels(plot_curves([{**row, "train_img_per_s": 100.0} for row in ROWS], tmp_path / "four.png"))
    one = _pixels(plot_curves([{"epoch": r["epoch"], "train_loss": r["train_loss"]} for r in ROWS], tmp_path / "1.png"))
    assert four.shape[0] > 1.5 * one.shape[0]
    assert four.shape[1] > 1.5 * one.shape[1]


def test_curves_accept_gaps_and_one_row(tmp_path):
    rows = [{"epoch": "0", "train_loss": "1.0", "eval_loss": ""}, {"epoch": "1", "train_loss": "nan", "eval_top1": "9"}]
    assert plot_curves(rows, tmp_path / "gaps.png").stat().st_size > 0
    assert plot_curves(ROWS[:1], tmp_path / "new" / "folder" / "one.png").exists()


def test_curves_without_a_known_column(tmp_path):
    with pytest.raises(ValueError, match="train_loss"):
        plot_curves([{"epoch": 0, "something": 1.0}], tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize("classes", [2, 10, 50, 1000])
def test_confusion_diagonal_is_dark_and_corners_are_white(tmp_path, classes):
    path = plot_confusion(np.eye(classes, dtype=int) * 5, None, tmp_path / "c.png")
    dark = np.argwhere(np.abs(_pixels(path) - (10, 35, 66)).max(axis=2) < 6)
    height, width = _pixels(path).shape[:2]
    # The colour bar ends dark as well: look at the matrix, which fills the left part.
    y, x = dark[dark[:, 1] < width - 560].T
    assert np.corrcoef(x, y)[0, 1] > 0.5
    assert max(height, width) < 2200


def test_confusion_adapts_names_to_the_number_of_classes(tmp_path):
    named = plot_confusion(np.eye(40, dtype=int), ["a rather long name"] * 40, tmp_path / "named.png")
    many = plot_confusion(np.eye(400, dtype=int), ["a rather long name"] * 400, tmp_path / "many.png")
    assert _pixels(named).shape[1] > _pixels(many).shape[1]  # room for names at the ticks, none for 400 of them


def test_confusion_input_errors(tmp_path):
    with pytest.raises(ValueError, match="square"):
        plot_confusion(np.zeros((2, 3)), None, tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"3 class names .* 2 classes"):
        plot_confusion(np.eye(2), ["a", "b", "c"], tmp_path / "c.png")


def test_most_confused_orders_by_count_and_leaves_zeros_out():
    matrix = np.array([[9, 1, 0], [4, 9, 1], [0, 0, 9]])
    assert most_confused(matrix) == [(1, 0, 4), (0, 1, 1), (1, 2, 1)]
    assert most_confused(matrix, limit=1) == [(1, 0, 4)]
    assert most_confused(np.eye(3)) == []


def test_sheet_colours_tell_right_wrong_and_unknown(tmp_path):
    image = Image.new("L", (8, 8), 128)
    green, red, blue = (44, 138, 75), (200, 53, 43), (37, 99, 168)
    right = plot_sheet([SheetItem(image, "a", 0.9, "a")], tmp_path / "right.png")
    wrong = plot_sheet([SheetItem(image, "a", 0.9, "b")], tmp_path / "wrong.png")
    unknown = plot_sheet([SheetItem(image, "a", 0.9)], tmp_path / "unknown.png")
    for path, present in ((right, green), (wrong, red), (unknown, blue)):
        assert _share(path, present) > 0.005
        assert all(_share(path, other) < 1e-4 for other in {green, red, blue} - {present})


def test_sheet_bar_is_as_long_as_the_probability(tmp_path):
    image = Image.new("RGB", (30, 20), (250, 250, 250))
    full = _share(plot_sheet([SheetItem(image, "a", 1.0)], tmp_path / "full.png"), (37, 99, 168))
    low = _share(plot_sheet([SheetItem(image, "a", 0.05)], tmp_path / "low.png"), (37, 99, 168))
    assert full > 1.2 * low


def test_sheet_grows_by_rows_and_refuses_nothing(tmp_path):
    items = [SheetItem(Image.new("RGB", (300, 200)), "name", 0.5) for _ in range(10)]
    two = _pixels(plot_sheet(items, tmp_path / "two.png", columns=5))
    four = _pixels(plot_sheet(items, tmp_path / "four.png", columns=3))
    assert four.shape[0] > 1.7 * two.shape[0]
    with pytest.raises(ValueError, match="at least one"):
        plot_sheet([], tmp_path / "none.png")
