"""Which folder a run takes, and that nothing in it is lost before the new run stands."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backbones.train.cli.train import main
from backbones.train.loop import folder
from backbones.train.options.recipe import RecipeError, resolve

SMALL = (
    "--model test_vit model_kwargs.patch_size=8 img_size=32 device=cpu workers=0 no_benchmark=true epochs=1 "
    "batch_size=8 overfit=8"
)


def train(output, *argv, experiment="run"):
    words = [word for text in (SMALL, *argv) for word in text.split()]
    name = ["--experiment", experiment] if experiment else []
    return main([*words, "--output", str(output), *name])


def content(path):
    """All files of a folder with what is in them."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("finished")
    assert train(output) == 0
    return output / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A finished run, alone under an output folder."""
    import shutil

    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize(
    "mistake",
    [
        "--recipe no_such_recipe",
        "--data /nowhere",
        "--model tset_vit",
        "model_kwargs.nonsense=1",
        "batch_size=7 mixup=0.5 overfit=0",
        "batch_size=0",
        "initial_checkpoint=/nowhere/w.safetensors",
        "kd_model_name=tset_resnet",
        "opt=adamww",
        "sched=cosin",
        "aa=nonsense overfit=0",
        "in_chans=2",
        "lr=1e3 fsdp=true amp_dtype=float16 clip_mode=agc sync_bn=true device=gpu",
    ],
)
def test_overwrite_deletes_nothing_unless_the_new_run_is_built(mistake, run, capsys):
    before = content(run)
    try:
        assert train(run.parent, mistake, "--overwrite") != 0
    except Exception as error:  # a traceback is for other tests to judge: the old run must be there whatever happens
        print(error)
    assert content(run) == before


def test_overwrite_may_start_from_the_run_that_it_deletes(run):
    (run / "notes.txt").write_text("mine")
    before = content(run)
    assert train(run.parent, f"initial_checkpoint={run / 'best.safetensors'} epochs=2", "--overwrite") == 0
    assert (run / "notes.txt").read_text() == "mine"
    assert content(run)["summary.csv"] != before["summary.csv"]


@pytest.mark.parametrize(
    "mistake", ["--model tset_vit", "--data /nowhere", "model_kwargs.nonsense=1", "batch_size=7 mixup=0.5 overfit=0"]
)
@pytest.mark.parametrize("experiment", ["run", None])
def test_mistakes_leave_no_folder(mistake, experiment, tmp_path):
    assert train(tmp_path / "output", mistake, experiment=experiment) in (2, 3)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("argv", ["--resume auto", "--resume {run}", ""])
def test_weights_without_their_state_are_kept(argv, run, capsys):
    (run / "last.state.pt").unlink()
    before = content(run)
    assert train(run.parent, argv.format(run=run)) == 2
    error = capsys.readouterr().err
    assert "no last.state.pt to go on from" in error and len(error.strip().splitlines()) == 1
    assert content(run) == before


def stored_recipe(path):
    return folder.read_recipe(path)


def test_a_run_that_saved_nothing_gives_way_to_what_is_asked(run, tmp_path, capsys):
    """``--resume auto`` finds a recipe and nothing else: the options of the command line count, not the recipe's."""
    for file in ("last.state.pt", "last.safetensors", "best.safetensors", "summary.csv"):
        (run / file).unlink()
    (tmp_path / "other.yaml").write_text("epochs: 2\nopt: sgd\n")
    words = SMALL.replace("epochs=1", "")
    argv = f"{words} --recipe {tmp_path / 'other.yaml'} --resume auto --output {tmp_path} --experiment run"
    assert main(argv.split()) == 0
    stored = stored_recipe(run)
    assert (stored["epochs"], stored["opt"], stored["recipe"]) == (2, "sgd", str(tmp_path / "other.yaml"))
    assert len(list(csv.DictReader((run / "summary.csv").open()))) == 2
    assert "resumed" not in capsys.readouterr().out


def test_the_latest_run_that_saved_nothing_is_taken_again(tmp_path, capsys):
    assert train(tmp_path, experiment=None) == 0
    first = tmp_path / "test_vit-digits-32"
    second = tmp_path / "test_vit-digits-32-2"
    second.mkdir()
    (second / "recipe.yaml").write_bytes((first / "recipe.yaml").read_bytes())
    before = content(first)
    assert train(tmp_path, "--resume auto", experiment=None) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]
    assert content(first) == before and (second / "last.state.pt").exists()


def test_another_recipe_is_refused_on_resuming(run, tmp_path, capsys):
    before = content(run)
    (tmp_path / "other.yaml").write_text("epochs: 5\n")
    assert train(run.parent, f"--resume auto --recipe {tmp_path / 'other.yaml'}") == 2
    error = capsys.readouterr().err
    assert "was started with --recipe demo, so it cannot go on with --recipe" in error
    assert content(run) == before
    # The one that it was started with goes on, whatever it is called.
    assert train(run.parent, "--resume auto --recipe demo epochs=2") == 0
    assert len(list(csv.DictReader((run / "summary.csv").open()))) == 2


@pytest.mark.parametrize("change", ["--model test_resnet model_kwargs={}", "opt=sgd", "img_size=64", "layer_decay=0.5"])
def test_a_state_that_does_not_fit_is_one_sentence(change, run, capsys):
    before = content(run)
    assert train(run.parent, f"--resume auto epochs=2 {change}") in (2, 3)
    error = capsys.readouterr().err
    assert "cannot go on" in error and len(error.strip().splitlines()) == 1
    assert content(run) == before


HOLD = """
import sys
from pathlib import Path
from backbones.train.loop.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("argv", ["--resume auto epochs=2", "--overwrite"])
def test_two_runs_cannot_share_a_folder(argv, run, capsys):
    """Another process holds it; it is free as soon as that process is killed."""
    before = content(run)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert train(run.parent, argv) == 2
        error = capsys.readouterr().err
        assert f"in use by another run (process {holder.pid} on" in error and len(error.strip().splitlines()) == 1
        assert {name: text for name, text in content(run).items() if name != ".lock"} == before
    finally:
        holder.kill()
        holder.communicate()
    assert train(run.parent, argv) == 0
    assert not (run / ".lock").exists()


def test_output_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    for output in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert train(output) == 2
        error = capsys.readouterr().err
        assert f"Cannot write to {tmp_path / 'file'}" in error and len(error.strip().splitlines()) == 1


def test_default_names_are_numbered(tmp_path):
    options = resolve(None, {"output": str(tmp_path), "model": "test_vit"})
    names = []
    for _ in range(3):
        with folder.new_folder(options) as path:
            names.append(path.name)
    assert names == ["test_vit-digits-32", "test_vit-digits-32-2", "test_vit-digits-32-3"]
    with pytest.raises(RecipeError, match="there is no run"):
        folder.folder_to_resume(resolve(None, {"resume": str(tmp_path / "nowhere")}))


def test_runs_of_earlier_clones_go_on_where_they_are(run, tmp_path, monkeypatch):
    """Runs are in runs/; --resume auto finds one in output/ too, and goes on there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    run.rename(tmp_path / "output" / "run")
    assert main([*SMALL.split(), "--experiment", "run", "--resume", "auto", "epochs=2"]) == 0
    assert not (tmp_path / "runs").exists()
    with open(tmp_path / "output" / "run" / "summary.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
