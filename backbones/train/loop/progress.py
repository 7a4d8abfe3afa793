"""What a run shows while it trains: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Display:
    """Shows training progress on rank 0.

    Args:
        primary: Whether this process talks at all.
        total: Optimiser steps of the whole run.
        done: Steps done before this start.
        live: A bar instead of lines; by default on a terminal.
    """

    def __init__(self, primary: bool, total: int, done: int = 0, live: bool | None = None) -> None:
        self.primary, self.total, self.first = primary, total, done
        self.console = Console(highlight=False, soft_wrap=True, file=sys.stdout)
        self.live = primary and (self.console.is_terminal if live is None else live)
        self.start = time.perf_counter()
        self.bar = None
        if self.live:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task("training", total=total, completed=done, facts="")
            self.bar.start()

    def eta(self, done: int) -> str:
        """Time left by the pace since this start, as h:mm:ss."""
        passed = done - self.first
        if passed <= 0:
            return "-:--:--"
        left = (time.perf_counter() - self.start) / passed * (self.total - done)
        return str(timedelta(seconds=round(left)))

    def step(self, done: int) -> None:
        """Moves the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done)

    def log(self, epoch: str, done: int, facts: dict[str, str]) -> None:
        """Shows the facts of a log interval: in the bar, or as a line."""
        text = "  ".join(f"{key} {value}" for key, value in {**facts, "ETA": self.eta(done)}.items())
        if self.bar is not None:
            self.bar.update(self.task, description=epoch, completed=done, facts=text)
        else:
            self.say(f"{epoch}  {text}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        if not self.primary:
            return
        if self.bar is not None:
            self.console.print(text, markup=False)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Takes the bar down."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
