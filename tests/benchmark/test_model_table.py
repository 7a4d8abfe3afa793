"""The generated tables of models: up to date, and complete."""

from __future__ import annotations

import pytest

from backbones.benchmark import model_table
from backbones.models import list_known

# Counting multiply-adds takes a second a model, so one of each family is counted here, and all by the tool's --check.
COUNTED = sorted({min(names, key=len) for _, names in model_table.families()})


def test_tables_are_up_to_date():
    """`python tools/model_table.py` writes them."""
    assert model_table.problems(COUNTED) == []


def test_every_model_is_in_both():
    assert sorted(name for _, names in model_table.families() for name in names) == sorted(list_known())
    rows = model_table.read_rows(model_table.PAGE.read_text(encoding="utf-8"))
    assert sorted(rows) == sorted(list_known())
    table = model_table.README.read_text(encoding="utf-8").split(model_table.BEGIN)[1].split(model_table.END)[0]
    assert table.count("arxiv.org/abs/") == len(model_table.families())


@pytest.mark.parametrize("cell", [1, 2, 3])
def test_a_stale_cell_is_found(cell, tmp_path, monkeypatch):
    rows = model_table.read_rows(model_table.PAGE.read_text(encoding="utf-8"))
    monkeypatch.setattr(model_table, "list_known", lambda: ["van_b0"])
    monkeypatch.setattr(model_table, "PAGE", tmp_path / "models.md")
    rows["van_b0"][cell] = "0.1"
    (tmp_path / "models.md").write_text(f"| {' | '.join(rows['van_b0'])} |\n", encoding="utf-8")
    assert model_table.problems(["van_b0"]) == ["models.md: van_b0"]


def test_names_of_a_family_are_shortened():
    assert model_table._short(["nat_m", "nat_t"]) == "`nat_{m,t}`"
    assert model_table._short(["dinat_l", "dinat_l_11x11"]) == "`dinat_{l,l_11x11}`"
    assert model_table._short(["nat_isotropic_s", "vitrpb_s", "vitrpb_b"]) == "`nat_isotropic_s` `vitrpb_{s,b}`"
