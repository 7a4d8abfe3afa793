"""`tools/gpu.py` rehearsed on CPU: every part runs, and what goes wrong costs no more than its case."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from backbones.gpu import cli
from backbones.gpu.page import write_page
from backbones.gpu.results import FAILS, HOLDS, MISSED, Case, Results, Setting, Summary, Unavailable, run_cases


def _report(folder: Path) -> str:
    return (folder / "report.md").read_text(encoding="utf-8")


def test_all_parts(tmp_path, capsys):
    pytest.importorskip("triton")
    assert cli.main(["--out", str(tmp_path), "--device", "cpu", "--minutes", "20"]) == 0, _report(tmp_path)
    found = {name: Summary.of(Results(tmp_path / name).read()) for name in cli.PARTS}
    for name, summary in found.items():
        assert summary.plan and not summary.not_reached and summary.named(HOLDS), name
        assert (tmp_path / name / "log.txt").is_file()
    assert found["kernels"].results["random cases 1 to 1"]["error_of_bound"] < 1
    assert found["families"].results["nat_m: float32, forward and training step"]["gradients"] == 0
    assert {"tiles", "times tiles"} & set(found["speed"].named("measured")[-1])
    assert json.loads((tmp_path / "speed" / "triton_tiles.json").read_text())["none"]
    assert found["training"].results["killed and resumed"]["epochs"] == 2
    assert list((tmp_path / "profile").glob("*.png"))
    report = _report(tmp_path)
    assert report.startswith("# Proof and measurements on a GPU\n\n**A rehearsal on CPU")
    assert "## Fails\n\n- nothing" in report and "compute-sanitizer" in report
    assert "wrote " in capsys.readouterr().err


def _setting(folder: Path) -> Setting:
    return Setting(torch.device("cpu"), folder, True)


def test_cases_are_apart(tmp_path):
    """A failing case does not stop the next; a missing tool is no failure; what the time does not allow is told."""
    results = Results(tmp_path / "kernels")

    def fail() -> None:
        raise AssertionError("2 is not 3\nthe second line")

    def lack() -> None:
        raise Unavailable("no such tool")

    def late() -> None:
        raise KeyboardInterrupt  # never run

    cases = [Case("a", fail), Case("b", lack), Case("c", lambda: {"error_max": 0.5})]
    assert run_cases(cases, results, _setting(tmp_path), 60)
    assert run_cases([*cases, Case("d", late)], results, _setting(tmp_path), -1)
    results.bound("speed", 1.1, 1.3, table="rows")
    summary = Summary.of(results.read())
    assert [result["status"] for result in summary.results.values()] == [FAILS, "unavailable", HOLDS, MISSED]
    assert summary.not_reached == ["d"]
    counts = write_page(tmp_path, ["kernels"], {"gpu": "none"})["kernels"]
    assert (counts[FAILS], counts[HOLDS], counts[MISSED], counts["not reached"]) == (1, 1, 1, 1)
    report = _report(tmp_path)
    assert "- kernels, a: AssertionError: 2 is not 3 the second line" in report
    assert "- kernels, b: no such tool" in report and "- kernels: d" in report
    assert "| speed | at least 1.3 | 1.1 | missed |" in report and "rehearsal" not in report


def test_a_process_that_dies_costs_one_case(tmp_path, monkeypatch):
    """Its part goes on behind that case in a new process."""
    script = tmp_path / "part.py"
    script.write_text(
        "import os, sys, torch\n"
        "from pathlib import Path\n"
        "from backbones.gpu.results import Case, Results, Setting, run_cases\n"
        f"folder = Path({str(tmp_path)!r}) / 'kernels'\n"
        "cases = [Case('dies', lambda: os._exit(11)), Case('lives', lambda: None)]\n"
        "run_cases(cases, Results(folder), Setting(torch.device('cpu'), folder, True), 60)\n"
    )
    monkeypatch.setattr(cli, "command", lambda *args: [sys.executable, str(script)])
    assert cli.main(["--out", str(tmp_path), "--device", "cpu", "--parts", "kernels"]) == 1
    results = Summary.of(Results(tmp_path / "kernels").read()).results
    assert results["dies"]["status"] == FAILS and "exit code 11: see kernels/log.txt" in results["dies"]["error"]
    assert results["lives"]["status"] == HOLDS


def test_a_part_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "command", lambda *args: [sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(cli, "GRACE", 0)
    assert cli.main(["--out", str(tmp_path), "--device", "cpu", "--parts", "profile", "--minutes", "0.01"]) == 1
    assert "profile, the part as a whole: it could not be started" in _report(tmp_path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--minutes", "0"], "--minutes must be above 0, not 0"),
        (["--device", "cuda"], "there is no CUDA device: --device cpu rehearses without one"),
    ],
)
def test_bad_input(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["--out", str(tmp_path / "new"), *args]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "new").exists()
