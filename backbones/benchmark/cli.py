"""Command line of `tools/benchmark.py`: models, operators and token mixers, timed in turns within one run."""

from __future__ import annotations

import argparse
import itertools
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from rich.table import Table
from timm.utils import ParseKwargs

from backbones.benchmark import mixers, ops
from backbones.benchmark.measure import Machine, Timing, interleave, machine_peak, peak_memory, ratio
from backbones.benchmark.models import PRECISIONS, TASKS, ModelSubject, Setting
from backbones.benchmark.plots import plot_pareto, plot_resolution
from backbones.layers.mixers import MIXERS
from backbones.models import family_of
from backbones.utils.files import write_csv, write_json, write_text
from backbones.utils.terminal import console, counting_bar, fail, say, warn
from backbones.utils.text import first_line


class BenchmarkError(ValueError):
    """Options that make no sense; the message is one sentence."""


def build_parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    models = commands.add_parser("models", help="models of the zoo or of timm")
    models.add_argument("names", nargs="+", metavar="MODEL", help="names, or patterns such as 'nat_*'")
    models.add_argument("--against", metavar="MODEL", help="print ratios to this model, timed in the same turns")
    models.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: both")
    models.add_argument("--sizes", nargs="+", default=["224"], metavar="S", help="pixels: 224, or HxW as 800x1216")
    models.add_argument("--batch", nargs="+", type=int, default=[8], metavar="N", help="images at once (default: 8)")
    models.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32"], metavar="P")
    models.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager"])
    models.add_argument("--layouts", nargs="+", choices=("contiguous", "channels_last"), default=["contiguous"])
    models.add_argument("--no-merge", action="store_true", help="leave re-parameterisable kernels apart")
    models.add_argument("--model-kwargs", nargs="*", default={}, action=ParseKwargs, metavar="key=value")
    models.add_argument("--plot", metavar="FILE.png", help="throughput against resolution")
    models.add_argument("--pareto", metavar="FILE.png", help="published top-1 against throughput, at the first size")
    models.add_argument(
        "--top1", nargs="*", default=[], metavar="MODEL=X", help="accuracy of models that this package does not know"
    )
    operators = commands.add_parser("ops", help="operators, against the plain forms of papers")
    operators.add_argument("groups", nargs="*", default=ops.DEFAULT_GROUPS, metavar="GROUP", help=", ".join(ops.GROUPS))
    operators.add_argument("--batch", type=int, default=1, metavar="N", help="images at once (default: 1)")
    operators.add_argument("--precision", choices=PRECISIONS[:3], default="float32")
    blocks = commands.add_parser("mixers", help="token mixers of equal width, on maps of stride 8")
    blocks.add_argument("names", nargs="*", default=mixers.DEFAULT, metavar="MIXER", help=", ".join(MIXERS))
    sizes = ["224", "320", "448", "640", "832", "1024"]
    blocks.add_argument("--sizes", nargs="+", default=sizes, metavar="S", help=f"pixels (default: {' '.join(sizes)})")
    blocks.add_argument("--dim", type=int, default=128, metavar="C", help="channels, heads of 32 (default: 128)")
    blocks.add_argument("--batch", type=int, default=1, metavar="N", help="images at once (default: 1)")
    blocks.add_argument("--precision", choices=PRECISIONS[:3], default="float32")
    blocks.add_argument("--plot", metavar="FILE.png", help="throughput of forward passes against resolution")
    for command in (models, operators, blocks):
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        command.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
        command.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each (default: 7)")
        command.add_argument("--seconds", type=float, default=1.0, metavar="X", help="length of a turn (default: 1)")
        command.add_argument("--warmup", type=int, default=2, metavar="N", help="uncounted calls before (default: 2)")
        command.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
        command.add_argument("--csv", metavar="FILE", help="write all results")
        command.add_argument("--json", metavar="FILE", help="write all results and the machine")
        command.add_argument("--markdown", metavar="FILE", help="write the printed tables as Markdown")
    return parser


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) >= 32 for part in parts):
        raise BenchmarkError(f"--sizes takes pixels from 32 up, such as 224 or 800x1216, not {text!r}.")
    return int(parts[0]), int(parts[-1])


def _names(patterns: Sequence[str]) -> list[str]:
    found: list[str] = []
    for pattern in patterns:
        matches = timm.list_models(pattern) if any(c in pattern for c in "*?[") else [pattern]
        if not matches:
            raise BenchmarkError(f"No model matches {pattern!r}.")
        found += [name for name in matches if name not in found]
    return found


def run_models(args: argparse.Namespace, device: torch.device) -> tuple[list[dict[str, Any]], list[tuple[str, Cells]]]:
    """Times every model in every setting; the models of one setting take turns."""
    names = _names([*args.names, *([args.against] if args.against else [])])
    grid = itertools.product(args.tasks, map(_size, args.sizes), args.batch, args.precision, args.modes, args.layouts)
    settings = [
        Setting(size, batch, task, precision, mode == "compiled", layout == "channels_last", not args.no_merge)
        for task, size, batch, precision, mode, layout in grid
    ]
    peaks = {p: machine_peak(device, getattr(torch, p.removeprefix("amp_"))) for p in args.precision}
    rows: list[dict[str, Any]] = []
    tables = []
    with counting_bar() as bar:
        task = bar.add_task("timing", total=len(settings) * len(names) * args.rounds)
        for setting in settings:
            subjects = [ModelSubject(name, setting, device, args.model_kwargs) for name in names]
            timings = interleave(
                subjects, device, args.rounds, args.seconds, args.warmup, done=lambda: bar.advance(task)
            )
            base = timings[names.index(args.against)] if args.against else None
            for subject, timing in zip(subjects, timings):
                memory = None if args.no_memory else peak_memory(subject, device)
                rows.append(model_row(subject, timing, base, memory, peaks[setting.precision]))
            tables.append(model_table(rows[-len(names) :], args.against))
            show(*tables[-1])
            del subjects, subject
    return rows, tables


def model_row(
    subject: ModelSubject, timing: Timing, base: Timing | None, memory: int | None, machine: Machine
) -> dict[str, Any]:
    """One line of a table of models, with the ratio to `base` where there is one."""
    batch = subject.setting.batch
    macs, traffic = subject.costs()
    # A backward pass computes twice what the forward pass does.
    passes = 3 if subject.setting.task == "training" else 1
    row = {
        "model": subject.name,
        **subject.setting.describe(),
        "params_m": round(subject.params / 1e6, 2),
        "gmacs": round(macs / 1e9, 3),
        "img_per_s": round(batch / timing.seconds, 3),
        **{f"ms_p{p}": round(1000 * timing.percentile(p / 100), 3) for p in (50, 90, 99)},
        "peak_mb": "" if memory is None else round(memory / 1e6, 1),
        "gflop_per_s": round(2 * passes * macs * batch / timing.seconds / 1e9, 1),
        "machine_gflop_per_s": round(machine.flops / 1e9, 1),
        "machine_gb_per_s": round(machine.bytes / 1e9, 1),
        "roofline": round(
            machine.least_seconds(2 * macs * batch * passes, traffic * batch * passes) / timing.seconds, 3
        ),
    }
    if base is not None:
        row["ratio"], row["ratio_low"], row["ratio_high"] = (round(x, 3) for x in ratio(timing, base))
    return row


def run_ops(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Times every operator against its plain form, forward, and forward and backward."""
    unknown = set(args.groups) - set(ops.GROUPS)
    if unknown:
        raise BenchmarkError(f"There is no group {', '.join(sorted(unknown))}: choose from {', '.join(ops.GROUPS)}.")
    dtype = getattr(torch, args.precision)
    machine = machine_peak(device, dtype)
    try:
        cases = [case for group in args.groups for case in ops.GROUPS[group](args.batch)]
    except (ImportError, RuntimeError) as error:
        raise BenchmarkError(str(error)) from error
    passes = [(case, backward) for case in cases for backward in ((False, True) if case.differentiable else (False,))]
    rows = []
    with counting_bar() as bar:
        task = bar.add_task("timing", total=2 * len(passes) * args.rounds)
        for case, backward in passes:
            subjects = list(ops.subjects(case, device, dtype, backward))
            timings = interleave(
                subjects, device, args.rounds, args.seconds, args.warmup, done=lambda: bar.advance(task)
            )
            memory = [None if args.no_memory else peak_memory(subject, device) for subject in subjects]
            middle, low, high = ratio(*timings)
            flops = case.flops * (3.5 if backward else 1)  # the backward pass computes the logits anew
            rows.append(
                {
                    "operator": case.name,
                    "pass": "forward+backward" if backward else "forward",
                    "ms": round(1000 * timings[0].seconds, 3),
                    "plain_ms": round(1000 * timings[1].seconds, 3),
                    "ratio": round(middle, 2),
                    "ratio_low": round(low, 2),
                    "ratio_high": round(high, 2),
                    "peak_mb": "" if memory[0] is None else round(memory[0] / 1e6, 1),
                    "plain_peak_mb": "" if memory[1] is None else round(memory[1] / 1e6, 1),
                    "machine_gflop_per_s": round(machine.flops / 1e9, 1),
                    "peak_share": round(flops / timings[0].seconds / machine.flops, 3) if flops else "",
                }
            )
            del subjects
    return rows


def run_mixers(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Times token mixers on maps of stride 8, forward, and forward and backward; those of one size take turns."""
    mixers.check_names(args.names)
    if args.dim < 32 or args.dim % 32:
        raise BenchmarkError(f"--dim must be a multiple of 32, not {args.dim}.")
    dtype = getattr(torch, args.precision)
    grid = [(which, _size(size)) for which in mixers.PASSES for size in args.sizes]
    rows: list[dict[str, Any]] = []
    with counting_bar() as bar:
        task = bar.add_task("timing", total=len(grid) * len(args.names) * args.rounds)
        for which, (height, width) in grid:
            map_size, backward = (-(-height // 8), -(-width // 8)), which != "forward"
            subjects = [
                mixers.MixerSubject(name, map_size, args.dim, args.dim // 32, args.batch, backward, device, dtype)
                for name in args.names
            ]
            timings = interleave(
                subjects, device, args.rounds, args.seconds, args.warmup, done=lambda: bar.advance(task)
            )
            for name, subject, timing in zip(args.names, subjects, timings):
                memory = "" if args.no_memory else round(peak_memory(subject, device) / 1e6, 1)
                rows.append(
                    {
                        "model": name,
                        "pass": which,
                        "size": f"{height}x{width}",
                        "ms": round(1000 * timing.seconds, 3),
                        "img_per_s": round(args.batch / timing.seconds, 3),
                        "peak_mb": memory,
                    }
                )
            del subjects, subject
    return rows


Cells = list[list[str]]


def model_table(rows: Sequence[Mapping[str, Any]], against: str | None) -> tuple[str, Cells]:
    """Title and cells, the header first, of the results of one setting."""
    first = rows[0]
    title = ", ".join(str(first[key]) for key in ("task", "size", "precision", "mode", "layout"))
    header = ["model", "img/s", "ms p50", "p90", "p99", "peak MB", "params M", "GMACs", "GFLOP/s", "roofline"]
    cells = [header + ([f"against {against}"] if against else [])]
    for row in rows:
        line = [row["model"], f"{row['img_per_s']:.2f}", *(f"{row[f'ms_p{p}']:.1f}" for p in (50, 90, 99))]
        line += [str(row[key]) for key in ("peak_mb", "params_m", "gmacs", "gflop_per_s", "roofline")]
        if against:
            line.append(f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})")
        cells.append(line)
    best = f"at best {first['machine_gflop_per_s']:.0f} GFLOP/s and {first['machine_gb_per_s']:.0f} GB/s"
    return f"{title}, batch {first['batch']}; this machine reaches {best}", cells


def op_table(rows: Sequence[Mapping[str, Any]]) -> tuple[str, Cells]:
    """Title and cells, the header first, of the results of operators."""
    cells = [["operator", "pass", "ms", "plain ms", "times as fast", "peak MB", "plain MB", "of peak flops"]]
    for row in rows:
        spread = f"{row['ratio']:.1f} ({row['ratio_low']:.1f} to {row['ratio_high']:.1f})"
        line = [row["operator"], row["pass"], f"{row['ms']:.2f}", f"{row['plain_ms']:.2f}", spread]
        cells.append([*line, *(str(row[key]) for key in ("peak_mb", "plain_peak_mb", "peak_share"))])
    return "operators against their plain forms", cells


def show(title: str, cells: Cells) -> None:
    """Print a table."""
    console.print(title, style="bold", markup=False)
    table = Table(*cells[0], header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for line in cells[1:]:
        table.add_row(*line)
    console.print(table)


def markdown(tables: Sequence[tuple[str, Cells]]) -> str:
    """Tables in GitHub's Markdown."""
    lines: list[str] = []
    for title, cells in tables:
        lines += [f"{title}:", "", f"| {' | '.join(cells[0])} |", f"|{' --- |' * len(cells[0])}"]
        lines += [f"| {' | '.join(line)} |" for line in cells[1:]] + [""]
    return "\n".join(lines)


def _top1(name: str, given: Mapping[str, float]) -> float | None:
    if name in given:
        return given[name]
    try:
        return family_of(name).variants[name.partition(".")[0]].weights[timm.get_pretrained_cfg(name).tag].top1
    except KeyError:
        return None


def _plots(args: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> None:
    task = args.tasks[0]
    same = {key: rows[0][key] for key in ("task", "batch", "precision", "mode", "layout")}
    rows = [row for row in rows if all(row[key] == value for key, value in same.items())]
    title = f"{task}, batch {same['batch']}, {same['precision']}, {args.device}"
    if args.plot:
        say(f"wrote {plot_resolution(rows, args.plot, title)}")
    if args.pareto:
        given = {name: float(value) for name, _, value in (item.partition("=") for item in args.top1)}
        size = rows[0]["size"]
        speeds = {row["model"]: row["img_per_s"] for row in rows if row["size"] == size}
        points = {name: (speed, top1) for name, speed in speeds.items() if (top1 := _top1(name, given)) is not None}
        if not points:
            raise BenchmarkError("--pareto needs a model with a published top-1: give --top1 MODEL=X.")
        say(f"wrote {plot_pareto(points, args.pareto, f'{title}, {size}')}")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What was measured on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {"cpu": cpu, "threads": torch.get_num_threads(), "torch": torch.__version__, "timm": timm.__version__, **gpu}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        for name, least in (("rounds", 1), ("warmup", 0), ("seconds", 0)):
            if getattr(args, name) < least:
                raise BenchmarkError(f"--{name} must be at least {least}, not {getattr(args, name)}.")
        if args.threads:
            torch.set_num_threads(args.threads)
        device = torch.device(args.device)
        machine = describe_machine(device)
        say(", ".join(f"{key} {value}" for key, value in machine.items()))
        if args.command == "models":
            rows, tables = run_models(args, device)
            _plots(args, rows)
        elif args.command == "mixers":
            rows = run_mixers(args, device)
            tables = [mixers.table(rows, which) for which in mixers.PASSES]
            for title, cells in tables:
                show(title, cells)
            if args.plot:
                title = (
                    f"token mixers, {args.dim} channels, stride 8, batch {args.batch}, {args.precision}, {args.device}"
                )
                forward = [row for row in rows if row["pass"] == "forward"]
                say(f"wrote {plot_resolution(forward, args.plot, title)}")
        else:
            rows = run_ops(args, device)
            tables = [op_table(rows)]
            show(*tables[0])
        if args.markdown:
            write_text(args.markdown, markdown(tables))
        if args.csv:
            write_csv(args.csv, rows)
        if args.json:
            write_json(args.json, {"machine": machine, "results": rows})
    except (BenchmarkError, ValueError, RuntimeError, AssertionError) as error:
        if not isinstance(error, ValueError) and "CUDA" not in str(error):
            raise
        fail(first_line(error))
        return 2
    except KeyboardInterrupt:
        warn("Interrupted.")
        return 130
    return 0
