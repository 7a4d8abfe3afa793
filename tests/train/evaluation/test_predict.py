from __future__ import annotations

import csv
import io
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform

from backbones.train.cli import predict
from backbones.train.data.datasets import DataError, DigitsDataset
from backbones.train.evaluation.predict import (
    HeldOutDigits,
    ImageFiles,
    Prediction,
    find_images,
    read_class_map,
    true_class,
    write_predictions,
)

CLASSES = ["cat", "dog", "owl", "fox", "bee", "elk"]


def picture(path: Path, seed: int = 0, size=(40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a random six-class model."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=6)
    save_file(model.state_dict(), folder / "best.safetensors")
    recipe = {"model": "test_resnet", "num_classes": 6, "in_chans": 3, "img_size": 32, "crop_pct": 1.0}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "class_names": CLASSES}))
    return str(folder)


@pytest.fixture
def photos(tmp_path):
    picture(tmp_path / "photos" / "b.png", 1)
    picture(tmp_path / "photos" / "deep" / "er" / "a.JPG", 2)
    picture(tmp_path / "photos" / "c.webp", 3)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    return tmp_path / "photos"


def names(paths):
    return [path.name for path in paths]


def test_files_folders_and_globs_are_found_once_and_in_order(photos):
    assert names(find_images([str(photos)])) == ["b.png", "c.webp", "a.JPG"]
    assert names(find_images([str(photos / "c.webp"), str(photos)])) == ["c.webp", "b.png", "a.JPG"]
    assert names(find_images([str(photos / "*.png")])) == ["b.png"]
    assert names(find_images([str(photos / "**" / "*")])) == ["b.png", "c.webp", "a.JPG"]
    assert names(find_images([str(photos / "de*")])) == ["a.JPG"]
    assert names(find_images([str(photos / "notes.txt")])) == ["notes.txt"]  # named, so tried


@pytest.mark.parametrize(
    ("text", "message"),
    [("*.tiff", "No image matches"), ("absent.jpg", "does not exist"), ("empty", "holds no images")],
)
def test_inputs_that_match_nothing(photos, text, message):
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        find_images([str(photos / text)])


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


def test_command_line_predicts_what_the_model_says(run, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes(b"broken")
    picture(photos / "owl" / "d.png", 4)
    out, sheet = tmp_path / "new" / "out.json", tmp_path / "new" / "sheet.png"
    flags = ["--device", "cpu", "--topk", "3", "-o", str(out), "--sheet", str(sheet), "-b", "2"]
    assert predict.main(["-m", run, str(photos), *flags]) == 0
    content = json.loads(out.read_text())
    assert names(Path(row["file"]) for row in content) == ["b.png", "c.webp", "a.JPG", "d.png"]
    model = timm.create_model("test_resnet", num_classes=6, checkpoint_path=f"{run}/best.safetensors").eval()
    # Preprocessing that the recipe leaves open is the model's own.
    cfg = timm.data.resolve_data_config({"input_size": (3, 32, 32), "crop_pct": 1.0}, model=model)
    transform = create_transform(**cfg, is_training=False)
    for row in content:
        with Image.open(row["file"]) as image, torch.inference_mode():
            expected = model(transform(image.convert("RGB"))[None]).softmax(1)[0].topk(3)
        assert [top["index"] for top in row["predictions"]] == expected.indices.tolist()
        assert [top["class"] for top in row["predictions"]] == [CLASSES[i] for i in expected.indices]
        assert [top["probability"] for top in row["predictions"]] == pytest.approx(expected.values.tolist(), abs=1e-4)
    assert [row["truth"] for row in content] == [None, None, None, "owl"]
    err = capsys.readouterr().err
    assert "1 of 5 images could not be read" in err
    assert "broken.jpg" in err
    assert "of 1 right" in err
    assert Image.open(sheet).format == "PNG"


@pytest.mark.parametrize("flag", ["--output", "--sheet"])
def test_command_line_prints_what_it_cannot_write(flag, run, photos, tmp_path, capsys):
    (tmp_path / "full").symlink_to("/dev/full")
    assert predict.main(["-m", run, str(photos), "--device", "cpu", flag, str(tmp_path / "full")]) == 2
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 3 and "No space left on device" in printed.err
    (tmp_path / "file").write_text("no folder")
    assert predict.main(["-m", run, str(photos), "--device", "cpu", flag, str(tmp_path / "file" / "out")]) == 2
    printed = capsys.readouterr()
    assert not printed.out and "Cannot write" in printed.err and len(printed.err.strip().splitlines()) == 1


def test_command_line_fails_only_when_nothing_is_readable(run, tmp_path, capsys):
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).write_bytes(b"broken")
    flags = ["-m", run, "--device", "cpu"]
    assert predict.main([*flags, str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all(name in printed.err for name in ("a.jpg", "b.png", "None of the images"))
    picture(tmp_path / "c.png")
    assert predict.main([*flags, str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_command_line_on_held_out_digits(tmp_path, capsys):
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), tmp_path / "best.safetensors")
    recipe = {"model": "test_resnet", "num_classes": 10, "img_size": 32, "class_names": [str(i) for i in range(10)]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    sheet = str(tmp_path / "sheet.png")
    flags = ["-m", str(tmp_path), "--device", "cpu", "--digits", "12", "--output-type", "csv"]
    assert predict.main([*flags, "--sheet", sheet, "--sheet-limit", "8"]) == 0
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row["truth"] for row in rows] == [str(i % 10) for i in range(12)]
    right = sum(row["truth"] == row["class_1"] for row in rows)
    assert f"{right} of 12 right" in printed.err
    assert "the first 8 of 12" in printed.err
    assert predict.main([*flags]) == 0
    assert capsys.readouterr().out == printed.out  # the same again


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name images, folders or globs, or --digits N"),
        (["a.png", "--digits", "3"], "not both"),
        (["absent.png"], "does not exist"),
        (["--digits", "3", "--topk", "0"], "--topk must be an integer of at least 1"),
        (["--digits", "3", "--class-map", "absent.txt"], "Cannot read the class names"),
    ],
)
def test_command_line_errors_are_one_sentence(run, argv, message, capsys):
    assert predict.main(["-m", run, "--device", "cpu", *argv]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["validate", "predict"])
def test_tools_run(tool, run, tmp_path, monkeypatch):
    """The scripts of a clone reach the same command lines."""
    script = Path(__file__).parents[3] / "tools" / "classification" / f"{tool}.py"
    image = picture(tmp_path / "data" / "val" / "cat" / "a.png")
    argv = {
        "validate": [run, "--data", str(tmp_path / "data"), "--device", "cpu"],
        "predict": ["-m", run, str(image), "--device", "cpu"],
    }[tool]
    monkeypatch.setattr(sys, "argv", [str(script), *argv])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
