"""One part in a process of its own: `python -m backbones.gpu.part NAME ...`, which `tools/gpu.py` starts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch

from backbones.gpu.results import Results, Setting, run_cases

#: In order of worth, with their shares of the time.
PARTS = {"kernels": 4, "families": 6, "speed": 9, "training": 3, "profile": 3}
DEVICE_LOST = 75


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns 0, or `DEVICE_LOST` where a new process has to go on."""
    parser = argparse.ArgumentParser(prog="backbones.gpu.part", description=__doc__)
    parser.add_argument("name", choices=[*PARTS, "precompile"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(argv)
    setting = Setting(torch.device(args.device), args.out / args.name, args.tiny)
    results = Results(setting.folder)
    cases = import_module(f"backbones.gpu.{args.name}").cases(setting, results)
    return 0 if run_cases(cases, results, setting, args.seconds) else DEVICE_LOST


if __name__ == "__main__":
    sys.exit(main())
