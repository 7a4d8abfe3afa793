"""The tables of models, measured here beside what the papers state: `docs/models.md`, and README.md's row a family."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import timm

from backbones.models import family_of, list_known
from backbones.models.registry import Family
from backbones.utils.files import write_text
from backbones.utils.profiling import count_macs, count_parameters

ROOT = Path(__file__).resolve().parents[2]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "models.md"
BEGIN, END = "<!-- models: written by tools/model_table.py -->", "<!-- end of models -->"
NO_FIXTURE = "-"
_FAMILY_COLUMNS = ("models", "paper", "params, M", "published top-1, %", "parity error")
_COLUMNS = ("model", "params, M", "GMACs (size)", "published top-1, % (weights)", "parity error")
_INTRODUCTION = """# Models

Written by `tools/model_table.py`; do not edit. Parameters and GMACs (multiply-adds) are measured by this code, the
latter at the size in brackets, which is that of the model's first weights. Top-1 is the papers', for the weights named
in brackets; all weights are in [the table of weights](../checkpoints/README.md). The parity error is the largest
difference of logits from the authors' implementation, in units of their standard deviation, where a fixture is in
`tests/parity`.
"""


def families() -> list[tuple[Family, list[str]]]:
    """Every family with the names of its models, ordered by paper."""
    names: dict[int, list[str]] = {}
    for name in list_known():
        names.setdefault(id(family_of(name)), []).append(name)
    found = [family_of(members[0]) for members in names.values()]
    return sorted(
        ((family, list(family.variants)) for family in found), key=lambda one: (one[0].paper_name, sorted(one[1]))
    )


def measure(name: str, macs: bool = True) -> list[str]:
    """The row's cells without the parity error; the GMACs are left open where `macs` is false."""
    cfg = timm.get_pretrained_cfg(name)
    model = timm.create_model(name, device="meta")
    size = cfg.input_size
    top1 = [f"{w.top1} ({tag})" for tag, w in family_of(name).variants[name].weights.items() if w.top1]
    return [
        f"`{name}`",
        f"{count_parameters(model) / 1e6:.1f}",
        f"{count_macs(model, size) / 1e9:.1f} ({size[-1]})" if macs else "",
        ", ".join(top1),
    ]


def parity_errors() -> dict[str, str]:
    """Model name to the worst error of logits against the classification fixtures in tests/parity."""
    sys.path.insert(0, str(ROOT))
    from tests.parity.cases import cases
    from tests.parity.runner import run_case

    errors: dict[str, float] = {}
    for case in cases():
        if case.form == "classifier" and case.number == 1 and case.published:
            name = case.model.split(".")[0]
            for error in run_case(case).get("logits", {}).values():
                errors[name] = max(error, errors.get(name, 0.0))
    return {name: f"{error:.0e}" for name, error in errors.items()}


def read_rows(text: str) -> dict[str, list[str]]:
    """Cells of every model's row in `docs/models.md`, by name."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    return {row[0].strip("`"): row for row in rows}


def _span(values: Iterable[object]) -> str:
    """ "least to greatest", or the only value, or nothing."""
    ordered = sorted({str(value) for value in values}, key=float)
    return " to ".join(dict.fromkeys((ordered[0], ordered[-1]))) if ordered else ""


def _short(names: Sequence[str]) -> str:
    """Names that begin alike as one: nat_{m,t,s,b}."""
    if len(names) == 1:
        return f"`{names[0]}`"
    parts, same = [name.split("_") for name in names], 0
    while all(len(part) > same + 1 and part[same] == parts[0][same] for part in parts):
        same += 1
    if not same:
        return " ".join(_short(list(group)) for _, group in groupby(names, key=lambda name: name.split("_")[0]))
    sizes = ",".join("_".join(part[same:]) for part in parts)
    return f"`{'_'.join(parts[0][:same])}_{{{sizes}}}`"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ("---",) * len(columns), *rows))


def family_table(rows: dict[str, list[str]]) -> str:
    """README.md's table: a row a family, from the rows of its models."""
    table = []
    for family, names in families():
        weights = [w for name in names for w in family.variants[name].weights.values()]
        errors = [rows[name][-1] for name in names if rows[name][-1] != NO_FIXTURE]
        paper = family.paper_ids.removeprefix("arXiv:")
        cells = (
            _short(names),
            f"[{family.paper_name.partition(':')[0]}](https://arxiv.org/abs/{paper})",
            _span(rows[name][1] for name in names),
            _span(w.top1 for w in weights if w.top1),
            max(errors, key=float, default=NO_FIXTURE),
        )
        table.append(cells)
    return _table(_FAMILY_COLUMNS, table)


def page(rows: dict[str, list[str]]) -> str:
    """`docs/models.md`: a table a paper, with a row a model."""
    text = _INTRODUCTION
    for (title, paper), group in groupby(families(), key=lambda entry: (entry[0].paper_name, entry[0].paper_ids)):
        names = [name for _, members in group for name in members]
        link = f"[arXiv {paper.removeprefix('arXiv:')}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})"
        text += f"\n## {title}\n\n{link}\n\n{_table(_COLUMNS, [rows[name] for name in names])}\n"
    return text


def readme(text: str, rows: dict[str, list[str]]) -> str:
    """README.md's `text` with the table of families in its place."""
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    return f"{head}{BEGIN}\n{family_table(rows)}\n{END}{tail}"


def problems(macs: Sequence[str]) -> list[str]:
    """What is out of date, parity errors apart, which the test suite holds.

    Args:
        macs: Models whose GMACs are measured, too.
    """
    text = PAGE.read_text(encoding="utf-8")
    rows = read_rows(text)
    wrong = []
    for name in list_known():
        found, expected = rows.get(name), measure(name, name in macs)
        if found is None or any(cell and cell != there for cell, there in zip(expected, found)):
            wrong.append(f"{PAGE.name}: {name}")
    if wrong:
        return wrong
    there = README.read_text(encoding="utf-8")
    pairs = ((PAGE.name, text, page(rows)), (README.name, there, readme(there, rows)))
    return [name for name, before, after in pairs if before != after]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="model_table", description="The tables of models in README.md and docs.")
    parser.add_argument("--check", action="store_true", help="compare only; parity errors are left to the test suite")
    if parser.parse_args(argv).check:
        wrong = problems(list_known())
        if wrong:
            sys.exit(f"Out of date: {', '.join(wrong)}. Run python tools/model_table.py")
        return
    errors = parity_errors()
    rows = {name: [*measure(name), errors.get(name, NO_FIXTURE)] for name in list_known()}
    text = readme(README.read_text(encoding="utf-8"), rows)
    for path, content in ((PAGE, page(rows)), (README, text)):
        write_text(path, content)
