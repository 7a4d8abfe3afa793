"""The page about a run: what holds, what fails with its first error, what was not reached, and the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backbones.gpu.results import FAILS, HOLDS, MEASURED, MISSED, NOT_REACHED, UNAVAILABLE, Results, Summary
from backbones.utils.files import write_text

#: What a row says beside its table's columns.
_PLUMBING = ("case", "status", "table", "seconds")


def write_page(folder: Path, parts: Sequence[str], machine: Mapping[str, Any]) -> dict[str, Counter[str]]:
    """Write `report.md`; returns how many results of each kind every part has."""
    summaries = {name: Summary.of(Results(folder / name).read()) for name in parts}
    counts = {name: _count(summary) for name, summary in summaries.items()}
    lines = ["# Proof and measurements on a GPU", ""]
    if "gpu" not in machine:
        lines += ["**A rehearsal on CPU, with tiny shapes: nothing here was measured on a GPU.**", ""]
    lines += [f"- {key}: {value}" for key, value in machine.items()] + [""]
    kinds = (HOLDS, FAILS, MISSED, MEASURED, UNAVAILABLE, NOT_REACHED)
    lines += _table(("part", *kinds), [(name, *(counts[name][kind] for kind in kinds)) for name in parts])
    lines += _list("Fails", _reasons(summaries, FAILS, "error"))
    lines += _targets(summaries)
    lines += _list("Not reached in the time given", _not_reached(summaries))
    lines += _list("Not available on this machine", _reasons(summaries, UNAVAILABLE, "reason"))
    for name, summary in summaries.items():
        lines += _tables(name, summary)
        pictures = sorted((folder / name).glob("*.png"))
        lines += [f"![{picture.stem}]({name}/{picture.name})" for picture in pictures] + [""] * bool(pictures)
    write_text(folder / "report.md", "\n".join(lines).rstrip() + "\n")
    return counts


def _count(summary: Summary) -> Counter[str]:
    counts = Counter(result["status"] for result in summary.results.values() if "status" in result)
    counts.pop("running", None)
    counts[NOT_REACHED] = len(summary.not_reached)
    return counts


def _reasons(summaries: Mapping[str, Summary], status: str, key: str) -> list[str]:
    return [
        f"{part}, {result['case']}: {result.get(key, '')}"
        for part, summary in summaries.items()
        for result in summary.named(status)
    ]


def _not_reached(summaries: Mapping[str, Summary]) -> list[str]:
    return [f"{part}: {', '.join(summary.not_reached)}" for part, summary in summaries.items() if summary.not_reached]


def _list(title: str, items: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {item}" for item in items or ["nothing"]), ""]


def _table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], f"|{' --- |' * len(cells[0])}", *lines[1:], ""]


def _targets(summaries: Mapping[str, Summary]) -> list[str]:
    rows = [
        (result["case"], f"{'at least' if result['least'] else 'at most'} {result['bound']:g}", result["value"], status)
        for summary in summaries.values()
        for status in (MISSED, HOLDS)
        for result in summary.named(status)
        if "bound" in result
    ]
    return ["## Targets", "", *(_table(("what", "target", "here", ""), rows) if rows else ["none measured", ""])]


def _tables(part: str, summary: Summary) -> list[str]:
    tables: dict[str, list[dict[str, Any]]] = {}
    for result in summary.results.values():
        if "table" in result:
            row = {key: value for key, value in result.items() if key not in _PLUMBING}
            tables.setdefault(result["table"], []).append(row)
    lines: list[str] = []
    for title, rows in tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"## {part}: {title}", ""]
        lines += _table(columns, [[row.get(column, "") for column in columns] for row in rows])
    return lines
