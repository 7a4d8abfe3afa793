"""Which tests can run here: those of tests/openmmlab need mmcv, which `make test` and `make setup-dense` install."""

from __future__ import annotations

from importlib.util import find_spec

WITHOUT_MMCV = find_spec("mmcv") is None
collect_ignore = ["openmmlab"] if WITHOUT_MMCV else []


def pytest_report_header() -> str | None:
    return "tests/openmmlab is left out: mmcv is not installed (make setup-dense)" if WITHOUT_MMCV else None
