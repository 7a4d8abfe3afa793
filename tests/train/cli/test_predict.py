"""``backbones-predict`` from its command line."""

from __future__ import annotations

import csv
import io
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform

from backbones.train.cli import predict

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


def test_predicts_what_the_model_says(run, photos, tmp_path, capsys):
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
def test_prints_what_it_cannot_write(flag, run, photos, tmp_path, capsys):
    (tmp_path / "full").symlink_to("/dev/full")
    assert predict.main(["-m", run, str(photos), "--device", "cpu", flag, str(tmp_path / "full")]) == 2
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 3 and "No space left on device" in printed.err
    (tmp_path / "file").write_text("no folder")
    assert predict.main(["-m", run, str(photos), "--device", "cpu", flag, str(tmp_path / "file" / "out")]) == 2
    printed = capsys.readouterr()
    assert not printed.out and "Cannot write" in printed.err and len(printed.err.strip().splitlines()) == 1


def test_fails_only_when_nothing_is_readable(run, tmp_path, capsys):
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


def test_on_held_out_digits(tmp_path, capsys):
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
def test_errors_are_one_sentence(run, argv, message, capsys):
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


def test_outputs_that_are_not_numbers_end_with_one_sentence(run, photos, tmp_path, capsys):
    """What was predicted is shown and drawn all the same."""
    shutil.copytree(run, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "best.safetensors")
    weights["fc.weight"][0, 0] = float("inf")
    save_file(weights, tmp_path / "broken" / "best.safetensors")
    flags = ["--device", "cpu", "--output-type", "json", "--sheet", str(tmp_path / "sheet.png")]
    assert predict.main(["-m", str(tmp_path / "broken"), str(photos), *flags]) == 1
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert len(rows) == 3 and rows[0]["predictions"][0]["probability"] is None
    errors = [line for line in printed.err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "NaN or infinite for 3 of 3 images" in errors[0]
    assert Image.open(tmp_path / "sheet.png").format == "PNG"
