"""The table of models in README.md: what is measured here, beside what the papers state."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import timm
import torch

from backbones.checkpoints import renamed
from backbones.files import replacing
from backbones.models import family_of, list_known
from backbones.profiling import count_macs, count_parameters

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- models: written by tools/model_table.py -->", "<!-- end of models -->"
HEADER = (
    "| model | arXiv | params, M | GMACs (size) | published top-1, % | parity error |",
    "| --- | --- | --- | --- | --- | --- |",
)
NO_FIXTURE = "-"


def measure(name: str) -> list[str]:
    """The row's cells without the parity error."""
    family = family_of(name)
    cfg = timm.get_pretrained_cfg(name)
    model = timm.create_model(name, device="meta")
    size = cfg.input_size
    top1 = family.variants[name].weights[cfg.tag].top1
    return [
        f"`{name}`",
        family.paper_ids.removeprefix("arXiv:"),
        f"{count_parameters(model) / 1e6:.1f}",
        f"{count_macs(model, size) / 1e9:.1f} ({size[-1]})",
        f"{top1} ({cfg.tag})" if top1 else "",
    ]


def parity_errors() -> dict[str, float]:
    """Model name to the worst error of logits against the classification fixtures in tests/parity."""
    sys.path.insert(0, str(README.parent))
    from tests.parity.models import CLASSIFICATION
    from tests.parity.parity import load, make_input, official_state_dict, worst_error

    errors: dict[str, float] = {}
    for path, name in CLASSIFICATION.items():
        fixture = load(README.parent / "tests/parity/fixtures" / f"{path}.json.gz")
        overlay = {"state_dict": renamed(official_state_dict(fixture), name)}
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
        name = name.split(".")[0]
        with torch.inference_mode():
            for run in fixture["runs"]:
                error = worst_error(run["logits"], model(make_input(run["input"])))
                errors[name] = max(error, errors.get(name, 0.0))
    return errors


def read_table(text: str) -> dict[str, list[str]]:
    """Cells of every row by model name."""
    block = text.split(BEGIN)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if "| `" in line]
    return {row[0].strip("` "): row for row in rows}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="model_table", description="The model table of README.md.")
    parser.add_argument("--check", action="store_true", help="compare only; parity errors are left to the test suite")
    check = parser.parse_args(argv).check
    text = README.read_text(encoding="utf-8")
    measured = {name: measure(name) for name in list_known()}
    if check:
        found = read_table(text)
        wrong = [name for name in measured if found.get(name, [])[:5] != measured[name]]
        if wrong or set(found) != set(measured):
            names = ", ".join(wrong or set(found) ^ set(measured))
            sys.exit(f"README.md's table is out of date for {names}: run python tools/model_table.py")
        return
    errors = parity_errors()
    rows = [[*cells, f"{errors[name]:.0e}" if name in errors else NO_FIXTURE] for name, cells in measured.items()]
    table = "\n".join((*HEADER, *(f"| {' | '.join(row)} |" for row in rows)))
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    with replacing(README) as aside:
        aside.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}", encoding="utf-8")
