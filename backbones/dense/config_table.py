"""The tables of configs/detection/README.md and configs/segmentation/README.md: published results, measured costs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config

from backbones.dense.costs import build_model, count_macs
from backbones.utils.files import write_text
from backbones.utils.profiling import count_parameters

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BEGIN, END = "<!-- configs: written by tools/dense/config_table.py -->", "<!-- end of configs -->"
COLUMNS = {
    "detection": {"box AP": "box_ap", "mask AP": "mask_ap", "PQ": "pq", "mIoU": "miou"},
    "segmentation": {"mIoU": "miou", "mIoU, multi-scale": "miou_ms"},
}
NONE = "\N{EN DASH}"


def config_paths(task: str) -> list[Path]:
    """All configs of `configs/<task>/<family>/`."""
    return sorted((CONFIGS / task).glob("*/*.py"))


def published_cells(cfg: Config, task: str) -> list[str]:
    """The row's published results, and params and FLOPs (in millions and billions) as the authors state them."""
    published = cfg.get("published", {})
    results = [_number(published, key) for key in COLUMNS[task].values()]
    return [*results, _number(published, "params"), _number(published, "flops")]


def _number(published: Mapping, key: str) -> str:
    return str(published.get(key, NONE))


def measured_cells(cfg: Config) -> list[str]:
    """The row's parameters in millions, and multiply-adds in billions with the size they are for."""
    model = build_model(cfg, "meta")
    params = count_parameters(model)
    height, width = cfg.cost_size
    macs = count_macs(model, (height, width)) / 1e9
    return [f"{params / 1e6:.1f}", f"{macs:.1f}" if macs < 20 else f"{macs:.0f}", f"{height} x {width}"]


def row(path: Path, task: str, cells: list[str]) -> str:
    cfg = Config.fromfile(path)
    results, costs = published_cells(cfg, task)[:-2], published_cells(cfg, task)[-2:]
    checkpoint = cfg.get("published", {}).get("checkpoint")
    link = f"[{path.stem}]({path.parent.name}/{path.name})"
    file = f"[authors']({checkpoint})" if checkpoint else NONE
    params, macs, size = cells
    return "| " + " | ".join([link, *results, params, costs[0], macs, costs[1], size, file]) + " |"


def header(task: str) -> tuple[str, str]:
    names = ["config", *COLUMNS[task], "params, M", "published", "GMACs", "published", "at", "weights"]
    return f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"


def read_cells(text: str, task: str) -> dict[str, list[str]]:
    """All cells of every row, by the config's name."""
    rows: dict[str, list[str]] = {}
    for line in text.split(BEGIN)[1].split(END)[0].splitlines():
        if line.startswith("| ["):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[cells[0].split("]")[0].lstrip("[")] = cells
    return rows


def measured_of(cells: list[str], task: str) -> list[str]:
    """The measured cells (parameters, GMACs, size) of a row that `read_cells` gave."""
    first = 1 + len(COLUMNS[task])
    return [cells[first], cells[first + 2], cells[first + 4]]


def _ordered(task: str) -> Iterator[tuple[Path, list[str]]]:
    """Configs with their measured cells: family by family, method by method, the smaller model first."""
    measured = {}
    for path in config_paths(task):
        print(f"measuring {path.stem}", file=sys.stderr)
        measured[path] = measured_cells(Config.fromfile(path))
    method = {path: path.stem.split("_")[0] for path in measured}
    yield from sorted(measured.items(), key=lambda kv: (kv[0].parent.name, method[kv[0]], float(kv[1][0]), kv[0].stem))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="config_table", description=__doc__)
    parser.add_argument("task", nargs="*", choices=[[], *COLUMNS], help="which table; both by default")
    parser.add_argument("--check", action="store_true", help="compare only")
    args = parser.parse_args(argv)
    for task in args.task or COLUMNS:
        readme = CONFIGS / task / "README.md"
        text = readme.read_text(encoding="utf-8")
        rows = [row(path, task, cells) for path, cells in _ordered(task)]
        written = (
            f"{text.split(BEGIN)[0]}{BEGIN}\n" + "\n".join((*header(task), *rows)) + f"\n{END}{text.split(END)[1]}"
        )
        if not args.check:
            write_text(readme, written)
        elif written != text:
            sys.exit(
                f"{readme.relative_to(CONFIGS.parent)} is out of date: run python tools/dense/config_table.py {task}"
            )
