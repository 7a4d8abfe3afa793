"""Training by the command lines: to its accuracy, killed and resumed, on several devices, and the dense demos."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from backbones.gpu.results import ROOT, Case, Results, Setting, Unavailable

TRAIN = "tools/classification/train.py"
#: Least top-1 on held-out digits, in percent.
TOP1 = 97.0
#: Largest difference in top-1 of runs whose sums are in another order, in percent: a few of the 360 held-out digits.
CLOSE = 2.0


def cases(setting: Setting, results: Results) -> list[Case]:
    """The plan of this part."""
    if setting.tiny:
        return [Case("killed and resumed", partial(killed_and_resumed, setting))]
    return [
        Case("digits, bfloat16", partial(digits, setting, results, "bfloat16")),
        Case("digits, float16", partial(digits, setting, results, "float16")),
        Case("killed and resumed", partial(killed_and_resumed, setting)),
        Case("DDP", partial(distributed, setting, results)),
        Case("FSDP2", partial(distributed, setting, results, "--fsdp")),
        Case("digits, torch.compile", partial(digits, setting, results, "bfloat16", "--torchcompile")),
        Case("detector of the demo", partial(dense, setting, results, "detection", "coco/bbox_mAP_50", 0.5)),
        Case("segmentor of the demo", partial(dense, setting, results, "segmentation", "mIoU", 50)),
    ]


def arguments(setting: Setting, name: str, *more: str) -> list[str]:
    """A run of the demo's recipe."""
    short = ["epochs=2", "warmup_epochs=0", "batch_size=256"] if setting.tiny else []
    out = ["--output", str(setting.folder), "--experiment", name, "--device", setting.device.type, "--no-benchmark"]
    return [TRAIN, "--recipe", "demo", *out, *more, *short]


def call(command: Sequence[str]) -> str:
    """Run Python; returns what it printed.

    Raises:
        RuntimeError: It failed; with its last line.
    """
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise RuntimeError(f"{' '.join(command[:2])} ended with exit code {done.returncode}: {lines[-1][:300]}")
    return done.stdout


def summary(folder: Path) -> list[dict[str, str]]:
    """The epochs of a run."""
    with open(folder / "summary.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def top1(rows: Sequence[dict[str, str]]) -> float:
    """Of the best epoch, in percent."""
    key = next(key for key in rows[0] if "top1" in key and "train" not in key)
    return max(float(row[key]) for row in rows if row[key])


def digits(setting: Setting, results: Results, kind: str, *more: str) -> dict[str, Any]:
    """The demo reaches its accuracy with mixed precision."""
    name = f"digits-{kind}{'-compiled' * bool(more)}"
    call(arguments(setting, name, "--amp", "--amp-dtype", kind, *more))
    results.bound(f"top-1 on digits, {kind} {' '.join(more)}".strip(), top1(summary(setting.folder / name)), TOP1)
    return {}


def killed_and_resumed(setting: Setting) -> dict[str, Any]:
    """A run that was killed goes on from its last checkpoint, and ends like one that was not."""
    amp = [] if setting.tiny else ["--amp"]
    process = subprocess.Popen(
        [sys.executable, *arguments(setting, "killed", *amp)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not list((setting.folder / "killed").glob("*last*.safetensors")):
            time.sleep(0.05)
        early = process.poll() is None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    call(arguments(setting, "killed", *amp, "--resume", "auto"))
    resumed = summary(setting.folder / "killed")
    if setting.tiny:
        return {"killed_before_its_end": early, "epochs": len(resumed)}
    call(arguments(setting, "whole", *amp))
    whole = summary(setting.folder / "whole")
    if len(whole) != len(resumed):
        raise AssertionError(f"the resumed run has {len(resumed)} epochs instead of {len(whole)}")
    difference = abs(top1(whole) - top1(resumed))
    if difference > CLOSE:
        raise AssertionError(f"the resumed run's top-1 differs by {difference:.2f} %")
    return {"killed_before_its_end": early, "top1_difference": round(difference, 3)}


def distributed(setting: Setting, results: Results, *more: str) -> dict[str, Any]:
    """torchrun on all devices."""
    count = torch.cuda.device_count()
    name = "fsdp" if more else "ddp"
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    call([*launch, *arguments(setting, name, "--amp", *more, f"batch_size={max(64 // count, 1)}")])
    results.bound(f"top-1 on digits, {name} on {count} devices", top1(summary(setting.folder / name)), TOP1)
    return {"devices": count}


def dense(setting: Setting, results: Results, task: str, metric: str, least: float) -> dict[str, Any]:
    """The demo of detection or segmentation, trained and tested."""
    if find_spec("mmdet") is None or find_spec("mmseg") is None:
        raise Unavailable("mmdet and mmseg are not installed")
    config, folder = f"configs/{task}/demo.py", setting.folder / task
    call(["tools/dense/make_scenes.py"])
    call(["tools/dense/train.py", config, "--work-dir", str(folder), "--amp"])
    weights = (folder / "last_checkpoint").read_text().strip()
    call(["tools/dense/test.py", config, weights, "--work-dir", str(folder / "test")])
    found = json.loads((folder / "test" / "metrics.json").read_text())[metric]
    results.bound(f"{metric} of the {task} demo", found, least)
    return {}
