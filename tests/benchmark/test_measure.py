"""Turns, ratios, peak memory and the roofline. Nothing here depends on how fast the machine is."""

from __future__ import annotations

import time

import pytest
import torch

from backbones.benchmark import measure
from backbones.benchmark.measure import Machine, Timing, interleave, machine_peak, peak_memory, ratio

CPU = torch.device("cpu")
MB = 1 << 20


def test_subjects_take_turns():
    seen: list[str] = []
    turns = []
    timings = interleave(
        [lambda: seen.append("a"), lambda: seen.append("b")], CPU, 3, 0.0, warmup=2, done=lambda: turns.append(1)
    )
    # Two calls of each come first; every turn has one that does not count and, without a length, one that does.
    assert seen == ["a", "a", "b", "b"] * 4
    assert len(turns) == 6 and [(len(t.rounds), len(t.calls)) for t in timings] == [(3, 3), (3, 3)]


def test_turns_last_as_long_as_asked():
    [timing] = interleave([lambda: time.sleep(0.002)], CPU, rounds=2, seconds=0.02, warmup=0)
    assert len(timing.rounds) == 2 and 2 <= len(timing.calls) <= 20
    assert min(timing.calls) >= 0.002 and timing.seconds >= 0.002


def test_ratio_is_of_rounds():
    """A machine that is slow in one round is slow for both."""
    ours, other = Timing(rounds=[1.0, 1.0, 10.0, 2.0]), Timing(rounds=[2.0, 2.0, 20.0, 4.0])
    assert ratio(ours, other) == (2.0, 2.0, 2.0)
    middle, low, high = ratio(Timing(rounds=[1.0] * 5), Timing(rounds=[1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (low, middle, high) == (2.0, 3.0, 4.0)
    assert ratio(Timing(rounds=[1.0]), Timing(rounds=[3.0])) == (3.0, 3.0, 3.0)


def test_percentiles():
    timing = Timing(calls=[float(i) for i in range(100, 0, -1)])
    assert timing.percentile(0.5) == 51 and timing.percentile(0.9) == 91 and timing.percentile(1.0) == 100


@pytest.mark.parametrize("measured", [peak_memory, lambda subject, _: measure._sampled_peak(subject)])
def test_peak_memory(measured):
    def subject() -> None:
        large = torch.ones(64 * MB // 4)
        time.sleep(0.1)  # on a busy machine the thread that looks has to wait for its turn
        del large

    def quiet() -> None:
        time.sleep(0.01)

    subject()
    assert 0.8 * 64 * MB < measured(subject, CPU) < 1.5 * 64 * MB
    assert measured(quiet, CPU) < 16 * MB


def test_roofline():
    machine = Machine(flops=100.0, bytes=10.0)
    assert machine.least_seconds(flops=200.0, traffic=5.0) == 2.0
    assert machine.least_seconds(flops=10.0, traffic=50.0) == 5.0
    measured = machine_peak(CPU, seconds=0.0)
    assert measured.flops > 1e9 and measured.bytes > 1e8
