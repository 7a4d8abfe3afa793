"""Two processes under torchrun (gloo) compute what one does; DDP and FSDP2."""

from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[3]
#: SGD, and clipping that computes the norm but never bites: both would otherwise hide a wrong scale of gradients.
OPTIONS = """\
--model test_vit img_size=32 model_kwargs.patch_size=8 device=cpu workers=0 epochs=2 opt=sgd lr=0.05 warmup_epochs=0
sched_on_updates=true clip_grad=20 aa=rand-m9 reprob=0.25 mixup=0.8 cutmix=1.0 model_ema=true model_ema_decay=0.9
no_benchmark=true log_interval=1"""


def launch(data, output, name, options, processes=1, **kwargs):
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    words = f"{OPTIONS} --data {data} --output {output} --experiment {name} {options}"
    return subprocess.Popen(
        [*launcher, str(ROOT / "tools/classification/train.py"), *shlex.split(words)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        **kwargs,
    )


def run(data, output, name, options, processes=1):
    process = launch(data, output, name, options, processes)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    losses = [line.split("loss ")[1].split()[0] for line in text.splitlines() if "  loss " in line]
    return output / name, [float(loss) for loss in losses]


def rows(path):
    return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader((path / "summary.csv").open())]


def assert_same(ours, theirs):
    (path, losses), (other, expected) = ours, theirs
    assert len(losses) == len(expected) == 12 and len(set(expected)) == 12
    assert losses == pytest.approx(expected, abs=2e-4)
    for row, wanted in zip(rows(path), rows(other), strict=True):
        for key in ("train_loss", "eval_loss", "eval_top1", "eval_ema_loss"):
            assert row[key] == pytest.approx(wanted[key], abs=1e-4), key
    for name in ("last.safetensors", "last_ema.safetensors"):
        weights, wanted = load_file(path / name), load_file(other / name)
        assert weights.keys() == wanted.keys()
        assert max(float((weights[key] - wanted[key]).abs().max()) for key in wanted) < 1e-3


@pytest.fixture(scope="module")
def alone(photo_folder, tmp_path_factory):
    return run(photo_folder, tmp_path_factory.mktemp("alone"), "one", "batch_size=8")


def test_loss_on_two_processes_equals_that_on_one(photo_folder, alone, tmp_path):
    assert_same(run(photo_folder, tmp_path, "two", "batch_size=2 grad_accum_steps=2", processes=2), alone)


def test_sharded_training_equals_plain_training_and_resumes(photo_folder, alone, tmp_path):
    first = launch(photo_folder, tmp_path, "fsdp", "batch_size=2 grad_accum_steps=2 --fsdp", processes=2)
    for line in first.stdout:
        if "step 3/6" in line:
            break
    first.send_signal(signal.SIGTERM)
    text, _ = first.communicate(timeout=120)
    assert "Stopped by SIGTERM; saved at epoch 0" in text, text
    assert "torchrun --nproc_per_node 2" in text
    path, _ = run(photo_folder, tmp_path, "fsdp", "--resume auto", processes=2)
    (other, _), wanted = alone, rows(alone[0])
    for row, expected in zip(rows(path), wanted, strict=True):
        for key in ("train_loss", "eval_loss", "eval_ema_loss"):
            assert row[key] == pytest.approx(expected[key], abs=1e-4), key
    ours, theirs = load_file(path / "last.safetensors"), load_file(other / "last.safetensors")
    assert ours.keys() == theirs.keys()
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 1e-3
    state = torch.load(path / "last.state.pt", weights_only=True)
    assert state["epoch"] == 2 and len(state["optimizer"]["state"]) == len(list(theirs))


def test_an_error_of_one_process_ends_all_with_one_message(photo_folder, tmp_path):
    """Process 0 alone looks for the run folder; the other one waits for what it finds."""
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "best.safetensors").write_bytes(b"weights of a run")
    process = launch(photo_folder, tmp_path, "two", "batch_size=2", processes=2)
    text, _ = process.communicate(timeout=240)
    assert process.returncode != 0
    errors = [line for line in text.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "no last.state.pt to go on from" in errors[0]
    assert 'train.py", line' not in text  # no traceback of ours
    assert (tmp_path / "two" / "best.safetensors").read_bytes() == b"weights of a run"
