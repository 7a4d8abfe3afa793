"""The command line of the benchmark and its pictures."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from backbones.benchmark import cli, ops
from backbones.benchmark.plots import pareto, plot_pareto, plot_resolution

QUICK = ["--rounds", "2", "--seconds", "0", "--warmup", "0", "--device", "cpu"]
TINY = ["--model-kwargs", "dims=(32,32,64,64)", "depths=(1,1,1,1)"]


def test_models(tmp_path, capsys):
    files = {name: tmp_path / name for name in ("r.csv", "r.json", "size.png", "pareto.png")}
    args = ["models", "nat_[mt]", "--against", "dinat_m", "--sizes", "64", "96x64", "--batch", "2", *QUICK, *TINY]
    args += ["--csv", str(files["r.csv"]), "--json", str(files["r.json"])]
    assert cli.main([*args, "--plot", str(files["size.png"]), "--pareto", str(files["pareto.png"])]) == 0
    out = capsys.readouterr().out
    assert "against dinat_m" in out and "this machine reaches at best" in out
    assert "training, 96x64, float32, eager, contiguous, batch 2;" in out
    with open(files["r.csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    assert {(row["task"], row["size"]) for row in rows} == {
        (task, size) for task in ("inference", "training") for size in ("64x64", "96x64")
    }
    for row in rows:
        assert float(row["img_per_s"]) > 0 and float(row["gmacs"]) > 0 and float(row["peak_mb"]) >= 0
        assert float(row["ms_p50"]) <= float(row["ms_p90"]) <= float(row["ms_p99"])
        assert (float(row["ratio"]) == 1) == (row["model"] == "dinat_m")
    found = json.loads(files["r.json"].read_text())
    assert len(found["results"]) == len(rows) and found["machine"]["threads"] >= 1
    for name in ("size.png", "pareto.png"):
        with Image.open(files[name]) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_operators(monkeypatch, capsys, tmp_path):
    small = {"contmix": lambda batch: [ops.product_case(8, 8, 1, 4, 3, batch)]}
    monkeypatch.setattr(ops, "GROUPS", small)
    assert cli.main(["ops", "contmix", *QUICK, "--csv", str(tmp_path / "r.csv")]) == 0
    assert "ContMix 8x8, 1 heads of 4, kernel 3" in capsys.readouterr().out
    with open(tmp_path / "r.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pass"] for row in rows] == ["forward", "forward+backward"]
    assert all(float(row["ratio"]) > 0 for row in rows)


def test_mixers(capsys, tmp_path):
    names = ["softmax", "shifted_window", "rala"]
    files = [str(tmp_path / "r.csv"), str(tmp_path / "p.png")]
    args = ["mixers", *names, "--sizes", "64", "96", "--dim", "32", "--csv", files[0], "--plot", files[1]]
    assert cli.main([*args, *QUICK]) == 0
    assert "96: ms (MB)" in (out := capsys.readouterr().out) and out.count("fastest") == 2
    with open(files[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3 and {row["model"] for row in rows} == set(names)
    assert all(float(row["ms"]) > 0 and float(row["peak_mb"]) >= 0 for row in rows)


BAD = {
    "mixer": (["mixers", "softmacks"], "there is no mixer 'softmacks'; the nearest name is 'softmax'"),
    "width": (["mixers", "--dim", "48"], "--dim must be a multiple of 32, not 48"),
    "model": (["models", "nat_q"], "did you mean nat_"),
    "pattern": (["models", "nothing_*"], "No model matches 'nothing_*'"),
    "size": (["models", "nat_m", "--sizes", "8"], "from 32 up, such as 224 or 800x1216, not '8'"),
    "group": (["ops", "convolution"], "choose from neighborhood, contmix, routing"),
    "rounds": (["ops", "--rounds", "0"], "--rounds must be at least 1, not 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, capsys):
    args, message = BAD[case]
    assert cli.main([*args, "--device", "cpu"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_pareto_needs_an_accuracy(capsys, tmp_path):
    args = ["models", "nat_m", "--tasks", "inference", "--sizes", "64", *QUICK, *TINY, "--no-memory"]
    assert cli.main([*args, "--pareto", str(tmp_path / "p.png"), "--top1", "nat_m=12.5"]) == 0
    args[1] = "test_vit"
    args = [arg for arg in args if arg not in TINY]
    assert cli.main([*args, "--sizes", "160", "--pareto", str(tmp_path / "q.png")]) == 2
    assert "--top1 MODEL=X" in capsys.readouterr().err


def test_pareto_front():
    points = {"fast": (100.0, 70.0), "beaten": (50.0, 69.0), "good": (40.0, 80.0), "slow": (10.0, 80.0)}
    assert pareto(points) == ["fast", "good"]


def test_pictures_are_written_whole(tmp_path):
    rows = [{"model": "a", "size": f"{s}x{s}", "img_per_s": 1000 / s} for s in (64, 128)]
    plot_resolution(rows, tmp_path / "a.png", "title")
    plot_pareto({"a": (1.0, 80.0), "b": (2.0, 70.0)}, tmp_path / "b.png", "title")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
