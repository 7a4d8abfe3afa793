"""``backbones-validate`` from its command line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from backbones.train.cli import validate
from backbones.train.data.datasets import DigitsDataset


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of random ten-class models on digits-like recipes."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("test_resnet", "test_vit")):
        torch.manual_seed(seed)
        model = timm.create_model(name, num_classes=10, **({"img_size": 32} if name == "test_vit" else {}))
        (root / name).mkdir()
        save_file(model.state_dict(), root / name / "best.safetensors")
        recipe = {"model": name, "num_classes": 10, "in_chans": 3, "img_size": 32, "crop_pct": 1.0, "data": None}
        recipe["class_names"] = [str(i) for i in range(10)]
        (root / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return root


def test_measures_several_models(runs, tmp_path, capsys):
    specs = [str(runs / "test_resnet"), str(runs / "test_vit" / "best.safetensors")]
    out = tmp_path / "out"
    flags = ["--results-file", str(out / "table"), "--per-class", str(out / "classes.csv"), "--device", "cpu"]
    assert validate.main([*specs, *flags, "--confusion", str(out / "c.png"), "-b", "100"]) == 0
    rows = json.loads((out / "table.json").read_text())
    with open(out / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [row["model"] for row in table] == specs
    assert [float(row["top1"]) for row in table] == [row["top1"] for row in rows]
    assert {row["images"] for row in rows} == {355}
    assert all(0 <= row["top1"] <= row["top5"] <= 100 and row["loss"] > 0 and row["img_per_s"] > 0 for row in rows)
    assert all(len(row["sha256"]) == 64 for row in rows)
    printed = capsys.readouterr()
    assert f"{rows[0]['top1']:.2f}" in printed.out
    assert "100.0 %" in printed.err  # the load report
    for kind, suffix in (("classes", "csv"), ("c", "png")):
        assert len(list(out.glob(f"{kind}-*.{suffix}"))) == 2
    with open(next(out.glob("classes-*test_resnet.csv")), newline="") as file:
        classes = list(csv.DictReader(file))
    right = sum(float(row["recall"]) / 100 * int(row["support"]) for row in classes)
    assert 100 * right / 355 == pytest.approx(rows[0]["top1"], abs=1e-2)
    assert not list(out.glob(".*"))


def test_of_timm_on_part_of_the_classes(runs, tmp_path):
    """Positional data, --valid-labels, and several crops; two of the digits' classes, judged among themselves."""
    digits = DigitsDataset("val")
    for index in range(60):
        image, label = digits._read(index)
        if label in (3, 8):
            folder = tmp_path / "data" / "val" / {3: "b-three", 8: "a-eight"}[label]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{index}.png")
    (tmp_path / "valid.txt").write_text("8\n3\n")
    table = tmp_path / "t.json"
    flags = ["--valid-labels", str(tmp_path / "valid.txt"), "--crops", "5", "--results-file", str(table)]
    run = str(runs / "test_resnet")
    assert validate.main([str(tmp_path / "data"), "--model", run, "--device", "cpu", *flags]) == 0
    [row] = json.loads(table.read_text())
    assert (row["classes"], row["images"], row["crops"]) == (2, len(list((tmp_path / "data").rglob("*.png"))), 5)


def test_is_deterministic(runs, tmp_path):
    flags = [str(runs / "test_resnet"), "--device", "cpu", "--tta", "--results-file"]
    assert validate.main([*flags, str(tmp_path / "a.json")]) == 0
    assert validate.main([*flags, str(tmp_path / "b.json"), "-b", "50"]) == 0
    a, b = (json.loads((tmp_path / name).read_text())[0] for name in ("a.json", "b.json"))
    assert (a["top1"], a["top5"]) == (b["top1"], b["top5"])
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert not (tmp_path / "a.json.csv").exists()


def test_compiles_and_casts(runs, tmp_path):
    flags = [str(runs / "test_resnet"), "--device", "cpu", "--results-file"]
    assert validate.main([*flags, str(tmp_path / "plain.json")]) == 0
    fast = ["--amp", "--channels-last", "--torchcompile", "eager"]
    assert validate.main([*flags, str(tmp_path / "fast.json"), *fast]) == 0
    plain, fast_row = (json.loads((tmp_path / name).read_text())[0] for name in ("plain.json", "fast.json"))
    assert (plain["amp_dtype"], fast_row["amp_dtype"]) == (None, "bfloat16")
    assert plain["loss"] != fast_row["loss"]
    assert fast_row["loss"] == pytest.approx(plain["loss"], rel=0.02)


def test_goes_on_after_a_model_that_fails(runs, tmp_path, capsys):
    flags = ["--device", "cpu", "--results-file", str(tmp_path / "t.csv")]
    assert validate.main(["test_resnett", str(runs / "test_resnet"), *flags]) == 1
    assert "Did you mean test_resnet" in capsys.readouterr().err
    assert (tmp_path / "t.csv").read_text().count("\n") == 2


def test_on_a_folder_with_a_broken_image(runs, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("0", "3", "7"):
        folder = tmp_path / "data" / "val" / name
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "data" / "val" / "3" / "1.png").write_bytes(b"broken")
    flags = [str(runs / "test_resnet"), "--data", str(tmp_path / "data"), "--device", "cpu"]
    assert validate.main([*flags, "--results-file", str(tmp_path / "t.json")]) == 0
    row = json.loads((tmp_path / "t.json").read_text())[0]
    assert (row["images"], row["unreadable"], row["classes"]) == (8, 1, 3)
    err = capsys.readouterr().err
    assert "1 of 9 images could not be read" in err
    assert "3 of 10 outputs used" in err
    assert validate.main([*flags, "--max-unreadable", "0"]) == 2
    assert "1.png" in capsys.readouterr().err
    # The class folders themselves will do, but not a data set that lacks the split.
    flags[2] = str(tmp_path / "data" / "val")
    assert validate.main([*flags, "--results-file", str(tmp_path / "direct.json")]) == 0
    direct = json.loads((tmp_path / "direct.json").read_text())[0]
    assert (direct["top1"], direct["loss"], direct["images"]) == (row["top1"], row["loss"], 8)
    (tmp_path / "data" / "val").rename(tmp_path / "data" / "train")
    flags[2] = str(tmp_path / "data")
    assert validate.main(flags) == 2
    assert "no folder for the split 'val'" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--results-file", "--per-class", "--confusion"])
def test_shows_what_it_cannot_write(flag, runs, tmp_path, capsys):
    """The disk is full when the file is written: the table of every model is on the terminal all the same."""
    specs = [str(runs / "test_resnet"), str(runs / "test_vit")]
    files = [tmp_path / "full.csv", *(tmp_path / f"full-{'_'.join(Path(spec).parts[1:])}.csv" for spec in specs)]
    for file in files:
        file.symlink_to("/dev/full")
    assert validate.main([*specs, flag, str(files[0]), "--device", "cpu", "-b", "355"]) == 2
    printed = capsys.readouterr()
    assert all(Path(spec).name in printed.out for spec in specs) and "top-1" in printed.out
    errors = [line for line in printed.err.splitlines() if "error: Cannot write" in line]
    assert len(errors) == 2 and all("No space left on device" in line for line in errors)


def test_refuses_a_path_that_cannot_be_written_before_it_measures(runs, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    for flag in ("--results-file", "--per-class", "--confusion"):
        argv = [str(runs / "test_resnet"), flag, str(tmp_path / "file" / "out.csv"), "--device", "cpu"]
        assert validate.main(argv) == 2
        printed = capsys.readouterr()
        assert "Cannot write" in printed.err and len(printed.err.strip().splitlines()) == 1 and not printed.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "at least one model"),
        (["test_resnet", "--no-pretrained", "--device", "cpu"], "1000 outputs and digits has 10 classes"),
        (["test_resnet", "test_vit", "--checkpoint", "w.pth"], "1 files for 2 models"),
        (["test_resnet", "-b", "0"], "--batch-size must be an integer of at least 1"),
        (["test_resnet", "--crop-pct", "87.5"], "--crop-pct"),
        (["test_resnet", "--device", "nowhere"], "--device must be cuda, cpu or mps"),
        (["test_resnet", "--no-pretrained", "--data", "absent", "--device", "cpu"], "--data absent does not exist"),
    ],
)
def test_errors_are_one_sentence(argv, message, capsys):
    assert validate.main(argv) == 2
    assert message in capsys.readouterr().err


def test_outputs_that_are_not_numbers_end_with_one_sentence(runs, tmp_path, capsys):
    """The figures are shown and written all the same, and other models go on."""
    broken = tmp_path / "broken"
    shutil.copytree(runs / "test_resnet", broken)
    weights = load_file(broken / "best.safetensors")
    weights["fc.bias"][3] = float("nan")
    save_file(weights, broken / "best.safetensors")
    flags = ["--device", "cpu", "-b", "355", "--results-file", str(tmp_path / "table.json")]
    assert validate.main([str(broken), str(runs / "test_resnet"), *flags]) == 1
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "NaN or infinite for 355 of 355 images" in errors[0] and str(broken) in errors[0]
    assert "top-1" in printed.out and "nan" in printed.out
    wrong, right = json.loads((tmp_path / "table.json").read_text())
    assert wrong["loss"] is None and right["loss"] > 0
