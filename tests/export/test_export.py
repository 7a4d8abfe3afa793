"""Exported files: what they compute, what is said of them, and what happens where one cannot be had."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from backbones.export.cli import main
from backbones.export.compare import Comparison, compare
from backbones.export.graphs import Deployed, Inputs, open_file, write
from tests.interop.families import FAMILIES
from tests.models.zoo import image, stir, tiny

SMALL = ["--no-pretrained", "--img-size", "64", "--rounds", "1"]
VAN = ["van_b0", *SMALL, "--num-classes", "3", "--model-kwargs", "dims=[8,16,24,32]", "depths=[1,1,1,1]"]
VAN += ["mlp_ratios=[2,2,2,2]"]


@pytest.fixture
def photos(tmp_path):
    """`val/{a,b,c}` with three images each."""
    random = np.random.default_rng(0)
    for label in "abc":
        folder = tmp_path / "photos" / "val" / label
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(random.integers(256, size=(80, 90, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def report(folder) -> dict:
    return json.loads((folder / "report.json").read_text())["files"]


def test_a_program_with_preprocessing(tmp_path):
    """It takes what `preprocessing.json` says, and gives what the model gives for it."""
    out = tmp_path / "out"
    assert main([*VAN, "--out", str(out), "--formats", "pt2", "--half", "--with-preprocessing"]) == 0
    assert {path.name for path in out.iterdir()} == {
        "model.pt2", "model_float16.pt2", "preprocessing.json", "report.json",
    }  # fmt: skip
    assert report(out)["model.pt2"]["worst"] < 1e-5 and report(out)["model_float16.pt2"]["worst"] < 2e-2
    assert list(report(out)["model.pt2"]["differences"]) == ["1x3x64x64", "2x3x128x64", "1x3x64x160"]
    about = json.loads((out / "preprocessing.json").read_text())
    assert about["type"] == "uint8" and about["any_size"] and len(about["class_names"]) == 3

    torch.manual_seed(42)  # as random weights are
    args = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}
    model = timm.create_model("van_b0", num_classes=3, **args).eval()
    x = torch.randint(256, (2, 3, 96, 75), dtype=torch.uint8)
    mean, std = (torch.tensor(about[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        found = torch.export.load(out / "model.pt2").module()(x)
        torch.testing.assert_close(found, model((x / 255 - mean) / std), rtol=1e-4, atol=1e-5)


def test_onnx_and_int8(tmp_path, photos, capsys):
    out = tmp_path / "out"
    words = ["--formats", "onnx", "--int8", str(photos), "--calibration-images", "4", "--data", str(photos)]
    assert main([*VAN, "--out", str(out), *words]) == 0
    files = report(out)
    assert files["model.onnx"]["worst"] < 1e-4 and 1e-4 < files["model_int8.onnx"]["worst"] < 2
    assert files["model_int8.onnx"]["megabytes"] < 0.7 * files["model.onnx"]["megabytes"]
    assert all(0 <= file["top1"] <= 100 and file["speed"] > 0 for file in files.values())
    assert "in PyTorch" in capsys.readouterr().out


class OneSize(nn.Module):
    """Looks at images of 64 pixels, and says that it takes any."""

    def __init__(self, **kwargs):
        super().__init__()
        self.num_classes = 3
        self.fc = nn.Linear(64, 3)

    def forward(self, x):
        return self.fc(x.mean((1, 2)))


def test_a_model_of_one_size(tmp_path, monkeypatch, capsys):
    """Where no graph for any size holds, there is one for the model's size, and a sentence."""
    monkeypatch.setattr("backbones.train.evaluation.models._build", lambda *args, **kwargs: (OneSize(), None))
    monkeypatch.setattr(OneSize, "pretrained_cfg", {"input_size": (3, 64, 64), "num_classes": 3}, raising=False)
    assert main(["van_b0", *SMALL, "--out", str(tmp_path), "--formats", "pt2"]) == 0
    assert "model.pt2: takes 64 x 64 alone: " in capsys.readouterr().err
    assert list(report(tmp_path)["model.pt2"]["differences"]) == ["1x3x64x64", "2x3x64x64", "3x3x64x64"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vam_b0"], "vam_b0"),
        (["van_b0", "nat_t"], "Name one model, or give --all in its place."),
        ([], "Name one model, or give --all in its place."),
        (["--all", "--data", "x"], "leave out --checkpoint, --int8 and --data"),
        (["van_b0", "--formats", "tflite"], "--formats must be one of onnx, pt2"),
        (["van_b0", "--formats", "pt2", "--int8", "x"], "--int8 is a form of ONNX files"),
        (["van_b0", "--opset", "3"], "--opset must be"),
        (["configs/detection/demoo.py"], "There is no config configs/detection/demoo.py"),
    ],
)
def test_bad_input(words, message, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path / "out")]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not list(tmp_path.rglob("*.onnx"))


def test_without_onnx(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main([*VAN, "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'backbones[export]'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_differences_are_seen():
    """A file of other weights, and one that fails, are told."""
    model, other = (Deployed(stir(tiny("van_b0", num_classes=5), seed)) for seed in (2, 3))
    inputs, result = Inputs(3, 64, 64, True), Comparison("other", 0)
    compare(result, other, model, inputs, rounds=0)
    assert result.worst > 0.1 and len(result.differences) == 3 and result.speed is None
    result = Comparison("broken", 0)
    compare(result, nn.Linear(3, 3), model, inputs, rounds=0)
    assert len(result.failures) == 3 and np.isnan(result.worst)


@pytest.mark.extra
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name, suffix, tmp_path):
    model = Deployed(stir(tiny(name, num_classes=5))).requires_grad_(False)
    inputs, result = Inputs(3, 160, 160, True), Comparison(name, 0)
    path = tmp_path / f"model.{suffix}"
    write(model, inputs, path)
    compare(result, open_file(path), model, inputs, rounds=0)
    assert not result.failures and result.worst < 1e-4, result


def test_images_are_what_the_graph_takes():
    model = Deployed(nn.Identity(), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    x = model.images(2, 8, 9, 3)
    assert x.dtype == torch.uint8 and torch.equal(model.unnormalised(model(x)), x)
    plain = Deployed(nn.Identity())
    assert torch.equal(plain.unnormalised(image()), image())
