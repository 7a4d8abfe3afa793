"""The rows of `fixtures/<family>/cases.yaml`: what every fixture is compared with, and how closely.

A file has three keys:

- `tolerance`: the largest error that its rows allow, in standard deviations of the authors' output (`worst_error`);
- `parameters`: parameter count of every model of the family, head included: a mapping, or, where other forms of the
  models are counted as well, a list of `{models: mapping, args: constructor arguments, form: as in a row}`;
- `fixtures`: fixture name to its row, or to a list of rows, one a form of the model. `Case` says what a row may have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.parity.parity import load

FIXTURES = Path(__file__).parent / "fixtures"
FORMS = ("classifier", "features_only", "reparameterized", "dense", "module")


@dataclass(frozen=True)
class Case:
    """A comparison of one form of a model with a fixture.

    Attributes:
        family, fixture, number: Folder, file name without suffix, and place among the rows of the fixture.
        model: Name with tag, as `timm.create_model` takes it; none for a module.
        form: "classifier"; "features_only"; "reparameterized", a classifier after timm's `reparameterize_model`;
            "dense", a `DenseBackbone`; or "module", which `function` builds and runs.
        args: Constructor arguments; lists become tuples.
        tolerance: Of every digest, or by key of the run where some differ from the file's.
        outputs: Key of the run to the source of what it is compared with, where it is not the usual one (see
            `tests.parity.runner`): a name, the path of a module whose output is taken, a list of these, a mapping for a
            key that holds one, or `{module: source}` for the output of a module applied to a source.
        only: Keys that are compared, where this form does not compute all. Another row of the fixture does.
        inputs: Keys of the run that describe inputs beyond `input`, `inputs`, `dtype` and `scaled_parameters`.
        function: Name in `fixtures/<family>/outputs.py`: takes a `runner.Run`, returns outputs by key of the run; also
            `parameters`, a count, for a module.
        dtype: Precision of the comparison, where not the run's.
        gradients: Compute with gradients enabled, which takes other routes on CPU.
        indices: Of `forward_intermediates`; all maps by default.
        drop: Regex of the authors' keys that this form has no place for.
        parameters: Count, where it is not the fixture's.
        outliers: Kept values a digest that may be off, where routing turns on near ties.
        published: The fixture has the layout of a published file of this form, which is then recognised by its keys and
            shapes; or, a module, of none.
        extra: Leave the case to `make test-all`, or (false) do not; by default `make test` runs the modules and, of
            each family, the smallest classifier, or the smallest dense model where there is none.
        elsewhere: Path of the test that makes the comparison, where it needs other packages or backends.
    """

    family: str
    fixture: str
    number: int = 1
    model: str | None = None
    form: str = "classifier"
    args: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float | Mapping[str, float] = 0.0
    outputs: Mapping[str, Any] = field(default_factory=dict)
    only: Sequence[str] = ()
    inputs: Sequence[str] = ()
    function: str | None = None
    dtype: str | None = None
    gradients: bool = False
    indices: Sequence[int] | None = None
    drop: str | None = None
    parameters: int | None = None
    outliers: int = 0
    published: bool = True
    extra: bool | None = None
    elsewhere: str | None = None

    @property
    def path(self) -> str:
        """`family/fixture`."""
        return f"{self.family}/{self.fixture}"

    def __str__(self) -> str:
        return self.path if self.number == 1 else f"{self.path}:{self.number}"

    def load(self) -> dict[str, Any]:
        """The fixture."""
        return load(FIXTURES / f"{self.path}.json.gz")


def _tuples(value: Any) -> Any:
    """`value` with tuples in the place of lists, as constructors take them."""
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _case(family: str, fixture: str, number: int, tolerance: Any, row: Mapping[str, Any]) -> Case:
    unknown = set(row) - {one.name for one in fields(Case)} | set(row) & {"family", "fixture", "number"}
    if unknown or row.get("form", "classifier") not in FORMS:
        raise ValueError(f"{family}/cases.yaml, {fixture}: unknown {', '.join(sorted(unknown)) or row['form']}")
    own = row.get("tolerance", {})
    limits = {"": tolerance, **own} if isinstance(own, Mapping) else {"": own}
    return Case(
        family,
        fixture,
        number,
        **{
            **row,
            "args": _tuples(row.get("args", {})),
            "tolerance": {key: float(value) for key, value in limits.items()},  # YAML takes 1e-5 for text
        },
    )


def smallest(cases: Iterable[Case]) -> Case | None:
    """The case with the fewest parameters."""
    return min(cases, key=lambda case: case.load()["parameters"], default=None)


def _everyday(cases: Sequence[Case]) -> Case | None:
    """Of a family's full-size cases, the one that `make test` runs."""
    first = [case for case in cases if case.number == 1 and case.extra is None and not case.elsewhere]
    of = {form: smallest(case for case in first if case.form == form) for form in ("classifier", "dense")}
    return of["classifier"] or of["dense"]


@cache
def read(family: str) -> tuple[tuple[Case, ...], tuple[dict[str, Any], ...]]:
    """Cases of a family, and its groups of parameter counts.

    Raises:
        ValueError: The file is not what the module's docstring says.
    """
    content = yaml.safe_load((FIXTURES / family / "cases.yaml").read_text(encoding="utf-8"))
    if set(content) != {"tolerance", "parameters", "fixtures"}:
        raise ValueError(f"{family}/cases.yaml has tolerance, parameters and fixtures, not {', '.join(content)}")
    cases = [
        _case(family, fixture, number, content["tolerance"], row)
        for fixture, rows in content["fixtures"].items()
        for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1)
    ]
    everyday = _everyday(cases)
    cases = [
        case if case.extra is not None else replace(case, extra=case.form != "module" and case is not everyday)
        for case in cases
    ]
    counts = content["parameters"]
    groups = [{"models": counts}] if isinstance(counts, Mapping) else counts
    return tuple(cases), tuple({"form": "classifier", "args": {}, **group} for group in groups)


def families() -> list[str]:
    """Folders of fixtures that have rows."""
    return sorted(path.parent.name for path in FIXTURES.glob("*/cases.yaml"))


def cases() -> list[Case]:
    """All comparisons."""
    return [case for family in families() for case in read(family)[0]]


def published(form: str) -> dict[str, str]:
    """Fixture path to model name, of the fixtures whose files a classifier or a dense backbone is published as."""
    return {one.path: one.model for one in cases() if one.number == 1 and one.form == form and one.published}
