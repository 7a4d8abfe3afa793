"""Command line of `tools/gpu.py`: every part in a process of its own, and one page about all of them."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from backbones.benchmark.cli import describe_machine
from backbones.gpu.page import write_page
from backbones.gpu.part import DEVICE_LOST, PARTS
from backbones.gpu.results import FAILS, ROOT, RUNNING, Results, Summary
from backbones.utils.files import write_json
from backbones.utils.terminal import fail, say

#: How often a part is started again after its process has died.
RESTARTS = 5
#: Seconds that a process is given beyond its part's time, to end its last case.
GRACE = 60


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="gpu",
        description="Prove kernels and families on a GPU, measure speed, train and profile. Results are written to DIR"
        " as they come, and one page, DIR/report.md, says what holds, what fails and what was not reached.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--minutes", type=float, default=25, metavar="N", help="time for all parts (default: 25)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all, in this order")
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cpu rehearses with tiny shapes and models"
    )
    return parser


def environment(device: str) -> dict[str, str]:
    """That of the parts' processes: this package without installation, Triton's interpreter where there is no GPU."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    return env if device == "cuda" else {**env, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(name: str, args: argparse.Namespace, seconds: float) -> list[str]:
    """What runs a part."""
    tiny = ["--tiny"] if args.device == "cpu" else []
    options = ["--out", str(args.out), "--device", args.device, "--seconds", f"{seconds:.0f}", *tiny]
    return [sys.executable, "-m", "backbones.gpu.part", name, *options]


def stop(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def started(name: str, args: argparse.Namespace, seconds: float) -> Iterator[subprocess.Popen]:
    """A part's process, in a session of its own; what it prints goes to `log.txt`. Ended with the block."""
    folder = args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command(name, args, seconds),
            env=environment(args.device),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            stop(process)


def run_part(name: str, args: argparse.Namespace, seconds: float) -> None:
    """Run a part to its end or that of its time; a process that dies costs the case that it was at."""
    end, results = monotonic() + seconds, Results(args.out / name)
    for _ in range(RESTARTS + 1):
        left = end - monotonic()
        with started(name, args, left) as process:
            try:
                code = process.wait(timeout=max(left, 0) + GRACE)
            except subprocess.TimeoutExpired:
                code = None
        summary = Summary.of(results.read())
        stuck = summary.named(RUNNING)
        reason = "did not end within its time" if code is None else f"its process ended with exit code {code}"
        for result in stuck:
            results.add(result["case"], FAILS, error=f"{reason}: see {name}/log.txt")
        if code and not stuck and code != DEVICE_LOST:
            results.add("the part as a whole", FAILS, error=f"{reason}: see {name}/log.txt")
        if code == 0 or code is None or not (stuck or code == DEVICE_LOST):
            break
    if not Summary.of(results.read()).plan:
        results.add("the part as a whole", FAILS, error=f"it could not be started: see {name}/log.txt")


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """What is measured on and with."""
    machine = describe_machine(torch.device(args.device))
    if args.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        machine["capability"] = f"{properties.major}.{properties.minor}"
        machine["memory_gib"] = round(properties.total_memory / 2**30, 1)
        machine["devices"] = torch.cuda.device_count()
        machine["cuda"] = torch.version.cuda
    with contextlib.suppress(ImportError):
        import triton

        machine["triton"] = triton.__version__
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        machine["commit"] = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return machine


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns 0 if everything reached holds, 1 if something fails, 2 for a mistake of the user."""
    args = build_parser().parse_args(argv)
    args.out = args.out.resolve()
    problem = None
    if args.minutes <= 0:
        problem = f"--minutes must be above 0, not {args.minutes:g}"
    elif args.device == "cuda" and not torch.cuda.is_available():
        problem = "there is no CUDA device: --device cpu rehearses without one"
    elif args.device == "cuda" and importlib.util.find_spec("triton") is None:
        problem = "triton is not installed: pip install triton"
    elif args.out.exists() and not args.out.is_dir():
        problem = f"--out {args.out} is a file: name a folder"
    if problem:
        fail(f"{problem}.")
        return 2
    parts = [name for name in PARTS if name in args.parts]
    for name in parts:
        (args.out / name / "results.jsonl").unlink(missing_ok=True)
        (args.out / name / "log.txt").unlink(missing_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    machine = describe(args)
    write_json(args.out / "machine.json", machine)
    say(", ".join(f"{key} {value}" for key, value in machine.items()))

    end = monotonic() + 60 * args.minutes
    with contextlib.ExitStack() as background:
        # Compilation takes processor cores, and proofs do not mind who else uses the device.
        overlapped = "speed" in parts and parts[0] != "speed" and args.device == "cuda"
        warmer = background.enter_context(started("precompile", args, 60 * args.minutes)) if overlapped else None
        for i, name in enumerate(parts):
            if name in ("speed", "profile") and warmer is not None:
                stop(warmer)
            # What earlier parts left of their time goes to later ones.
            share = PARTS[name] / sum(PARTS[later] for later in parts[i:])
            left = max(end - monotonic(), 0)
            say(f"{name}: up to {share * left / 60:.1f} minutes")
            run_part(name, args, share * left)
            counts = write_page(args.out, parts, machine)[name]
            say("  " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    counts = write_page(args.out, parts, machine)
    say(f"wrote {args.out / 'report.md'}")
    return 1 if any(part.get(FAILS) for part in counts.values()) else 0
