"""Command lines that look at a run, a config or its data: analyze, flops, browse."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from backbones.dense import runner
from backbones.dense.analysis import browse, plot_run, read_scalars
from backbones.dense.cli_common import check_output, guarded, parser_of, read_config, say, show_rows
from backbones.dense.costs import build_model, count_macs
from backbones.dense.data_check import check
from backbones.dense.errors import DenseError
from backbones.utils.profiling import count_parameters


def _analyze(argv: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="analyze", description="Plot the loss and metric curves of a training.")
    parser.add_argument("work_dir", metavar="WORK_DIR", help="where train.py put the run")
    parser.add_argument("-o", "--out", metavar="FILE.png", help="default: curves.png in the work folder")
    args = parser.parse_args(argv)
    if args.out:
        check_output(args.out, "--out", folder=False)
    path = plot_run(args.work_dir, args.out)
    rows = read_scalars(args.work_dir)
    last = next(row for row in reversed(rows) if "loss" in row)
    tests = [row for row in rows if "loss" not in row]
    values = [("iterations", last["step"]), ("loss", last["loss"])]
    values += [(k, v) for k, v in (tests[-1] if tests else {}).items() if k not in ("time", "data_time", "step")]
    show_rows(str(args.work_dir), values)
    say(f"wrote {path}")


def _flops(argv: Sequence[str] | None) -> None:
    parser = parser_of("flops", "Parameters and multiply-adds of a config at an image size.", work_dir=False)
    parser.add_argument(
        "--size", type=int, nargs="+", metavar=("H", "W"), help="image size in pixels (default: as published)"
    )
    args = parser.parse_args(argv)
    cfg = read_config(args)
    size = tuple(args.size or cfg.get("cost_size") or ())
    size = size * 2 if len(size) == 1 else size
    if len(size) != 2 or min(size) < 32:
        raise DenseError(f"Give --size H W, both at least 32 pixels, not {' '.join(map(str, size)) or 'nothing'}.")
    with runner.translated():
        model = build_model(cfg, "meta")
        runner.check_neck(model, cfg)
    parts = [
        (f"parameters of {name}, M", round(count_parameters(part) / 1e6, 2)) for name, part in model.named_children()
    ]
    total = round(count_parameters(model) / 1e6, 2)
    macs = count_macs(model, size) / 1e9
    rows = [row for row in parts if row[1]]
    rows += [("parameters, M", total), (f"GMACs at {size[0]} x {size[1]}", f"{macs:.4g}")]
    show_rows(Path(args.config).stem, [(name, str(value)) for name, value in rows])


def _browse(argv: Sequence[str] | None) -> None:
    parser = parser_of("browse", "Draw what the data pipeline feeds, with its annotations.", work_dir=False)
    parser.add_argument("-o", "--out-dir", default="browse", metavar="DIR", help="default: browse")
    parser.add_argument("-n", "--number", type=int, default=8, metavar="N", help="pictures (default: 8)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train", help="default: train")
    args = parser.parse_args(argv)
    if args.number < 1:
        raise DenseError(f"--number must be at least 1, not {args.number}.")
    check_output(args.out_dir, "--out-dir")
    cfg = read_config(args)
    for remark in check(cfg, [args.split]):
        say(remark)
    with runner.translated():
        written = browse(cfg, args.out_dir, args.number, args.split)
    say(f"wrote {len(written)} pictures to {args.out_dir}")


def analyze(argv: Sequence[str] | None = None) -> int:
    """Entry point of `tools/dense/analyze.py`; returns the exit code."""
    return guarded(_analyze, argv)


def flops(argv: Sequence[str] | None = None) -> int:
    """Entry point of `tools/dense/flops.py`; returns the exit code."""
    return guarded(_flops, argv)


def browsing(argv: Sequence[str] | None = None) -> int:
    """Entry point of `tools/dense/browse.py`; returns the exit code."""
    return guarded(_browse, argv)
