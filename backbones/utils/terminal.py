"""What command lines show beside their results: messages and bars, on stderr."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Off a terminal, lines are not folded at 80.
messages = Console(stderr=True, width=None if sys.stderr.isatty() else 160, highlight=False)


def counting_bar() -> Progress:
    """A bar of things done out of all, gone when it is done; none off a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal)
