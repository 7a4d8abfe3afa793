"""Results of one part, written to disk as they come, so that a run that is cut off keeps what it has."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch

#: The clone.
ROOT = Path(__file__).resolve().parents[2]

HOLDS, FAILS, MISSED, MEASURED = "holds", "fails", "missed", "measured"
UNAVAILABLE, NOT_REACHED, RUNNING = "unavailable", "not reached", "running"


class Unavailable(Exception):
    """What a case needs is not on this machine; the message names it."""


@dataclass(frozen=True)
class Setting:
    """What a part is run with.

    Attributes:
        device: Where.
        folder: For what the part writes.
        tiny: Rehearse with the smallest shapes and models.
    """

    device: torch.device
    folder: Path
    tiny: bool


class Results:
    """The lines of `results.jsonl`: the plan, then one line for every result.

    Args:
        folder: Of the part.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.jsonl"

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line, and wait until it is on the disk."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def add(self, name: str, status: str, **facts: Any) -> None:
        """One result.

        Args:
            name: Of the case.
            status: `HOLDS`, `FAILS`, ...
            facts: Numbers, a row of a table, or an error.
        """
        self.write({"case": name, "status": status, **facts})

    def bound(self, name: str, value: float, bound: float, least: bool = True, **facts: Any) -> None:
        """A measured value against its target: a lower bound, or an upper one unless `least`."""
        met = value >= bound if least else value <= bound
        self.add(name, HOLDS if met else MISSED, value=round(value, 3), bound=bound, least=least, **facts)

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a process that was killed may have left a part of one."""
        lines = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    lines.append(json.loads(line))
                except json.JSONDecodeError:
                    continue
        return lines


@dataclass(frozen=True)
class Case:
    """One thing to prove or measure.

    Attributes:
        name: Unique within its part.
        run: Raises where it does not hold; may add results of its own and return facts.
    """

    name: str
    run: Callable[[], Mapping[str, Any] | None]


@dataclass
class Summary:
    """What a part's file says.

    Attributes:
        plan: Names of all cases, in order.
        results: Last result of every name, in order.
    """

    plan: list[str] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]]) -> Summary:
        summary = cls()
        for line in lines:
            if "plan" in line:
                summary.plan = list(line["plan"])
            else:
                summary.results[line["case"]] = dict(line)
        return summary

    def named(self, *status: str) -> list[dict[str, Any]]:
        """Results of these kinds."""
        return [result for result in self.results.values() if result["status"] in status]

    @property
    def not_reached(self) -> list[str]:
        """Cases without a result."""
        return [name for name in self.plan if self.results.get(name, {"status": RUNNING})["status"] == RUNNING]


def run_cases(cases: Iterable[Case], results: Results, setting: Setting, seconds: float) -> bool:
    """Run the cases that have no result yet, in order, until the time is over.

    A failing case does not stop the others, unless it left the device unusable.

    Returns:
        Whether the device still works.
    """
    end = monotonic() + seconds
    known = Summary.of(results.read()).results
    cases = list(cases)
    results.write({"plan": [case.name for case in cases]})
    for case in cases:
        if case.name in known:
            continue
        if monotonic() > end:
            break
        results.add(case.name, RUNNING)
        start = monotonic()
        try:
            facts = dict(case.run() or {})
            status = facts.pop("status", HOLDS)
        except Unavailable as reason:
            status, facts = UNAVAILABLE, {"reason": str(reason)}
        except Exception as error:
            traceback.print_exc()
            status, facts = FAILS, {"error": first_line(error)}
        results.add(case.name, status, **facts, seconds=round(monotonic() - start, 2))
        print(f"{status}: {case.name} {facts.get('error') or facts.get('reason') or ''}", flush=True)
        if status == FAILS and not _works(setting.device):
            return False
    return True


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:400]}" if lines else type(error).__name__


def _works(device: torch.device) -> bool:
    """Whether the device still computes: an illegal access to memory ends all later work of its process."""
    try:
        return bool((torch.ones(8, device=device).sum() == 8).item())
    except RuntimeError:
        return False


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """`|ours - theirs| / |theirs|` in double precision; infinite where `ours` is not finite."""
    ours, theirs = ours.detach().double().cpu(), theirs.detach().double().cpu()
    if ours.shape != theirs.shape:
        raise AssertionError(f"shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
    if not ours.isfinite().all():
        return float("inf")
    return ((ours - theirs).norm() / theirs.norm().clamp(min=1e-30)).item()


def must_be_close(what: str, error: float, bound: float) -> float:
    """Returns `error`.

    Raises:
        AssertionError: It is above `bound`.
    """
    if not error <= bound:
        raise AssertionError(f"{what} differs by {error:.2e} of its norm, more than {bound:.0e}")
    return error
