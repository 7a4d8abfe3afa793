"""Predictions of image files and how they are written."""

from __future__ import annotations

import csv
import io
import json

import pytest
from PIL import Image

from backbones.train.data.datasets import DataError, DigitsDataset
from backbones.train.evaluation.predict import (
    HeldOutDigits,
    ImageFiles,
    Prediction,
    read_class_map,
    true_class,
    write_predictions,
)

CLASSES = ["cat", "dog", "owl", "fox", "bee", "elk"]


def test_images_are_turned_upright_when_asked(tmp_path):
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held upright
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert ImageFiles([tmp_path / "turned.jpg"])[0][0].size == (20, 10)
    assert ImageFiles([tmp_path / "turned.jpg"], exif_transpose=True)[0][0].size == (10, 20)
    assert ImageFiles([tmp_path / "turned.jpg"], in_chans=1)[0][0].mode == "L"


def test_held_out_digits_take_turns_and_are_not_trained_on():
    digits = HeldOutDigits(25)
    assert digits.truths == [str(i % 10) for i in range(20)] + list("01234")
    trained = DigitsDataset("train")
    train_names = {trained.filename(i) for i in range(len(trained))}
    assert not train_names & {digits.filename(i) for i in range(25)}
    assert len({HeldOutDigits(355).filename(i) for i in range(355)}) == 355
    for count in (0, 356):
        with pytest.raises(DataError, match="between 1 and 355"):
            HeldOutDigits(count)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "cat\ndog\n\nowl\n"),
        ("list.json", '["cat", "dog", "owl"]'),
        ("by_output.json", '{"2": "owl", "0": "cat", "1": "dog"}'),
        ("by_name.json", '{"owl": 2, "cat": 0, "dog": 1}'),
    ],
)
def test_class_maps(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_class_map(tmp_path / name, 3) == ["cat", "dog", "owl"]
    with pytest.raises(DataError, match=name):
        read_class_map(tmp_path / name, 4)


def test_class_maps_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "odd.json").write_text('{"cat": "first"}')
    for name in ("bad.json", "odd.json", "absent.txt"):
        with pytest.raises(DataError, match=name):
            read_class_map(tmp_path / name, 1)


def test_truth_comes_from_the_folder(tmp_path):
    words = ["tench, Tinca tinca", "English springer"]
    ids = ["n01440764", "n02102040"]
    assert true_class(tmp_path / "n02102040" / "x.jpg", ids, words) == "English springer"
    assert true_class(tmp_path / "English springer" / "x.jpg", ids, words) == "English springer"
    assert true_class(tmp_path / "photos" / "x.jpg", ids, words) is None
    assert true_class(tmp_path / "cat" / "x.jpg", None, CLASSES) == "cat"


def test_text_csv_and_json_say_the_same():
    predictions = [
        Prediction(0, "a.png", [1, 0], ["dog, hound", "cat"], [0.75, 0.25], "cat"),
        Prediction(1, "b.png", [0, 1], ["cat", "dog, hound"], [0.6, 0.4], None),
    ]
    out = {kind: io.StringIO() for kind in ("text", "csv", "json")}
    for kind, file in out.items():
        write_predictions(predictions, kind, file)
    rows = list(csv.DictReader(io.StringIO(out["csv"].getvalue())))
    assert rows[0] == {
        "file": "a.png",
        "truth": "cat",
        **{"class_1": "dog, hound", "index_1": "1", "probability_1": "0.75"},
        **{"class_2": "cat", "index_2": "0", "probability_2": "0.25"},
    }
    content = json.loads(out["json"].getvalue())
    assert content[0]["truth"] == "cat"
    assert content[1]["predictions"][0] == {"index": 0, "class": "cat", "probability": 0.6}
    text = out["text"].getvalue().splitlines()
    assert text[0] == "a.png: dog, hound 75.0 %, cat 25.0 %  [wrong: cat]"
    assert text[1] == "b.png: cat 60.0 %, dog, hound 40.0 %"
