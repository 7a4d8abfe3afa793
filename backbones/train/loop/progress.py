"""What a run shows while it trains: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Display:
    """Shows training on stdout.

    Args:
        primary: Whether this process prints at all; rank 0 does.
    """

    def __init__(self, primary: bool) -> None:
        self.primary = primary
        self.bar: Progress | None = None

    def start(self, total: int, done: int = 0) -> None:
        """Puts up the bar.

        Args:
            total: Optimiser steps of the whole run.
            done: Steps done before this start.
        """
        self.total, self.first, self.began = total, done, time.perf_counter()
        console = Console(highlight=False, soft_wrap=True, emoji=False, file=sys.stdout)
        if self.primary and console.is_terminal:
            count, facts = TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[facts]}")
            columns = (TextColumn("{task.description}"), BarColumn(), count, facts, TimeElapsedColumn())
            self.bar = Progress(*columns, console=console)
            self.task = self.bar.add_task("training", total=total, completed=done, facts="")
            self.bar.start()

    def eta(self, done: int) -> str:
        """Time left by the pace since this start, as h:mm:ss."""
        passed = done - self.first
        if passed <= 0:
            return "-:--:--"
        left = (time.perf_counter() - self.began) / passed * (self.total - done)
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
        """A line, above the bar."""
        if self.bar is not None:
            self.bar.console.print(text, markup=False)
        elif self.primary:
            print(text, flush=True)

    def close(self) -> None:
        """Takes the bar down."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
