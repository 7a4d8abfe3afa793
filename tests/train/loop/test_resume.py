"""A killed, interrupted or stopped run goes on to exactly where an undisturbed one ends. Real processes are killed."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[3]
#: Everything that is random: augmentation, erasing, mixing, drop path, dropout; and EMA, accumulation, a schedule.
OPTIONS = """\
--model test_vit img_size=32 model_kwargs.patch_size=8 mean=[.5,.5,.5] std=[.5,.5,.5] crop_pct=1 device=cpu workers=1
batch_size=4 grad_accum_steps=2 epochs=3 warmup_epochs=1 sched_on_updates=true lr=1e-3 layer_decay=0.9 clip_grad=1.0
drop=0.1 drop_path=0.2 aa=rand-m9-mstd0.5-inc1 reprob=0.25 mixup=0.8 cutmix=1.0 model_ema=true model_ema_decay=0.9
save_every_steps=2 log_interval=2 no_benchmark=true"""


def command(data, output, *more):
    return [
        sys.executable, str(ROOT / "tools/classification/train.py"),
        "--data", str(data), "--output", str(output), "--experiment", "run", *OPTIONS.split(), *more,
    ]  # fmt: skip


# Sums depend on the number of threads, so every run of a comparison has the same.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(data, output, *more):
    return subprocess.Popen(
        command(data, output, *more), env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process):
    output, _ = process.communicate(timeout=240)
    return output


@pytest.fixture(scope="module")
def undisturbed(photo_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    process = start(photo_folder, output)
    text = finish(process)
    assert process.returncode == 0, text
    return output / "run"


def assert_same_end(run, undisturbed):
    for name in ("last.safetensors", "last_ema.safetensors", "best.safetensors", "best_ema.safetensors"):
        ours, theirs = load_file(run / name), load_file(undisturbed / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    ours, theirs = (torch.load(path / "last.state.pt", weights_only=True) for path in (run, undisturbed))
    for moment in ("exp_avg", "exp_avg_sq"):
        for index, state in theirs["optimizer"]["state"].items():
            assert torch.equal(ours["optimizer"]["state"][index][moment], state[moment])
    rows = [list(csv.DictReader((path / "summary.csv").read_text().splitlines())) for path in (run, undisturbed)]
    for row, expected in zip(*rows, strict=True):
        assert {k: v for k, v in row.items() if "img_per_s" not in k} == {
            k: v for k, v in expected.items() if "img_per_s" not in k
        }

    assert events(run) == events(undisturbed)


def events(run):
    """What TensorBoard shows of a run: (step, value) of every tag but speeds."""
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    tags = [tag for tag in board.Tags()["scalars"] if "img_per_s" not in tag]
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags}


def test_events_of_intervals_and_epochs_have_tags_of_their_own(undisturbed):
    shown = events(undisturbed)
    epochs = [6, 12, 18]
    assert [step for step, _ in shown["train/loss"]] == list(range(2, 19, 2))
    assert [step for step, _ in shown["train_epoch/loss"]] == [step for step, _ in shown["eval/ema_top1"]] == epochs
    rows = list(csv.DictReader((undisturbed / "summary.csv").read_text().splitlines()))
    for column, tag in (("train_loss", "train_epoch/loss"), ("lr", "train_epoch/lr"), ("eval_loss", "eval/loss")):
        assert [value for _, value in shown[tag]] == pytest.approx([float(row[column]) for row in rows], rel=1e-6)


def test_killed_at_random_moments_and_resumed(photo_folder, undisturbed, tmp_path):
    """SIGKILL again and again, at random moments after the next sign of progress, until the run gets through."""
    moments = random.Random()
    kills = []
    for _ in range(40):
        process = start(photo_folder, tmp_path, "--resume", "auto", "save_every_steps=3")  # amid intervals, too
        # The first starts are killed early in training; later ones may get further, so that the run ends.
        lines, read = moments.randint(1, 3 + len(kills) // 2), []
        if len(kills) < 3:
            for line in process.stdout:
                read.append(line)
                lines -= line.startswith("epoch")
                if not lines:
                    break
            time.sleep(moments.uniform(0, 0.4))
            if process.poll() is None:
                process.kill()
                kills.append(line.strip())
                finish(process)
                continue
        text = "".join(read) + finish(process)
        if process.returncode == 0:
            break
        pytest.fail(text)
    assert len(kills) == 3, kills
    print("killed after:", kills)
    assert_same_end(tmp_path / "run", undisturbed)


def test_interrupted_saves_and_says_how_to_go_on(photo_folder, undisturbed, tmp_path):
    process = start(photo_folder, tmp_path, "save_every_steps=0")
    seen = 0
    for line in process.stdout:
        seen += line.startswith("epoch")
        if seen == 2:
            break
    process.send_signal(signal.SIGINT)
    text = finish(process)
    assert process.returncode == 130, text
    assert "Stopped by SIGINT; saved at epoch" in text
    [advice] = [line for line in text.splitlines() if line.startswith("To go on: ")]
    words = advice.removeprefix("To go on: ").split()
    assert words[0] == "python"
    resumed = [sys.executable, *words[1:]]
    done = subprocess.run(resumed, env=ENVIRONMENT, text=True, capture_output=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed at epoch" in done.stdout
    assert_same_end(tmp_path / "run", undisturbed)
