"""Timing in turns, peak memory, and what the machine can do at best."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Timing:
    """Seconds of one call of a subject: every call's, and the mean of every round's."""

    calls: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)

    def percentile(self, share: float) -> float:
        """The time that `share` (0 to 1) of the calls do not exceed."""
        ordered = sorted(self.calls)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def waiter(device: torch.device) -> Callable[[], None]:
    """What waits for the work of a device."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def interleave(
    subjects: Sequence[Callable[[], object]],
    device: torch.device,
    rounds: int = 7,
    seconds: float = 1.0,
    warmup: int = 2,
    done: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time subjects in turns (A B A B ...), so that what disturbs the machine disturbs all of them.

    Args:
        subjects: Calls to time.
        device: Where they run.
        rounds: Turns of each.
        seconds: Least length of a turn; at least one call.
        warmup: Calls of each that come first and do not count.
        done: Called after every turn.
    """
    wait = waiter(device)
    for subject in subjects:
        for _ in range(warmup):
            subject()
        wait()
    timings = [Timing() for _ in subjects]
    for _ in range(rounds):
        for subject, timing in zip(subjects, timings):
            # The call after another subject's pays for memory and caches that it left.
            subject()
            wait()
            calls = []
            while not calls or sum(calls) < seconds:
                start = time.perf_counter()
                subject()
                wait()
                calls.append(time.perf_counter() - start)
            timing.calls += calls
            timing.rounds.append(statistics.fmean(calls))
            done()
    return timings


def ratio(of: Timing, against: Timing) -> tuple[float, float, float]:
    """How many times as fast `of` is: the median over the rounds of one run, and the quartiles around it."""
    ratios = sorted(b / a for a, b in zip(of.rounds, against.rounds))
    if len(ratios) < 2:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def _trim() -> None:
    """Give freed memory back, so that it does not count as the next subject's."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def peak_memory(subject: Callable[[], object], device: torch.device) -> int:
    """Bytes that a call takes at its peak above what was taken before it.

    CUDA: of torch's allocator. CPU: growth of the process's resident set, which Linux records; elsewhere it is sampled.
    """
    _trim()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        subject()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        _CLEAR.write_text("5")  # resets the recorded peak
        before = _status("VmRSS")
        subject()
        return max(_status("VmHWM") - before, 0)
    except (OSError, KeyError):
        return _sampled_peak(subject)


def _sampled_peak(subject: Callable[[], object]) -> int:
    def resident() -> int:
        if _STATUS.exists():
            return _status("VmRSS")
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    before, stop, seen = resident(), threading.Event(), [0]

    def watch() -> None:
        while not stop.wait(0.001):
            seen.append(resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        subject()
        seen.append(resident())
    finally:
        stop.set()
        watcher.join()
    return max(max(seen) - before, 0)


@dataclass
class Machine:
    """What a machine does at best, measured.

    Attributes:
        flops: Multiplications and additions a second in a large convolution or matrix product, the faster.
        bytes: Bytes a second read and written by a copy.
    """

    flops: float
    bytes: float

    def least_seconds(self, flops: float, traffic: float) -> float:
        """The roofline: no computation of so many operations and so much traffic can take less."""
        return max(flops / self.flops, traffic / self.bytes)


@torch.no_grad()
def machine_peak(device: torch.device, dtype: torch.dtype = torch.float32, seconds: float = 0.5) -> Machine:
    """Measure a device's arithmetic and its memory."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    channels, size = 256, 256 if device.type == "cuda" else 64
    image = torch.randn(4, channels, size, size, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 1, 1, device=device, dtype=dtype)
    large = torch.empty((1 << 30 if device.type == "cuda" else 1 << 27) // a.element_size(), device=device, dtype=dtype)
    copy = torch.zeros_like(large)
    subjects = [lambda: a @ b, lambda: F.conv2d(image, weight), lambda: copy.copy_(large)]
    product, convolution, copied = interleave(subjects, device, rounds=3, seconds=seconds)
    flops = max(2 * side**3 / min(product.calls), 2 * image.numel() * channels / min(convolution.calls))
    return Machine(flops, 2 * large.numel() * large.element_size() / min(copied.calls))
