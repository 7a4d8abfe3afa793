"""Every model against what its authors' code computes: the rows of `fixtures/<family>/cases.yaml`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import timm
from timm.utils.model import reparameterize_model

from backbones.features import DenseBackbone
from backbones.models import family_of, list_known
from tests.parity.cases import FIXTURES, cases, families, read
from tests.parity.runner import beyond, run_case

ROOT = Path(__file__).parents[2]
CASES = cases()
GROUPS = [
    pytest.param(group["form"], group["args"], group["models"], id=f"{family}-{number}")
    for family in families()
    for number, group in enumerate(read(family)[1], 1)
]


def _marked(case):
    return pytest.param(case, id=str(case), marks=[pytest.mark.extra] if case.extra else [])


@pytest.mark.parametrize("case", [_marked(case) for case in CASES if not case.elsewhere])
def test_fixture(case):
    assert beyond(case, run_case(case)) == {}


@pytest.mark.parametrize(("form", "args", "models"), GROUPS)
def test_parameters(form, args, models):
    found = {}
    for name in models:
        if form == "dense":
            model = DenseBackbone(name, device="meta", **args)
        else:
            model = timm.create_model(name, device="meta", **args)
        if form == "reparameterized":
            model = reparameterize_model(model)
        found[name] = sum(p.numel() for p in model.parameters())
    assert found == models


def test_every_fixture_has_a_row_and_every_row_a_fixture():
    rows = {case.path for case in CASES}
    assert rows == {path.relative_to(FIXTURES).as_posix()[: -len(".json.gz")] for path in FIXTURES.glob("*/*.json.gz")}


def test_some_row_of_every_fixture_compares_all_of_it():
    rows = defaultdict(list)
    for case in CASES:
        rows[case.path].append(case)
    assert [path for path, found in rows.items() if all(case.only for case in found)] == []


def test_comparisons_made_elsewhere_are_made_there():
    for case in CASES:
        assert not case.elsewhere or case.fixture in (ROOT / case.elsewhere).read_text(encoding="utf-8")


def test_every_model_has_its_parameters_counted():
    """Of the families that have fixtures."""
    counted = {name.split(".")[0] for family in families() for group in read(family)[1] for name in group["models"]}
    with_fixtures = {id(family_of(case.model)) for case in CASES if case.model}
    assert counted >= {name for name in list_known() if id(family_of(name)) in with_fixtures}


def test_make_test_runs_one_full_size_model_of_every_family():
    """By the automatic choice; a row may ask for more."""
    for family in families():
        full_size = [case for case in read(family)[0] if case.form != "module" and not case.elsewhere]
        assert not full_size or any(not case.extra for case in full_size), family
