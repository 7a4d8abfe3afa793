"""What command lines print: results on stdout, so that they can be piped; messages, errors and bars on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backbones.utils.failures import explain_failure
from backbones.utils.processes import keep_freed_memory

# Off a terminal, lines are not folded at 80.
console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, emoji=False)
messages = Console(stderr=True, width=None if sys.stderr.isatty() else 160, highlight=False, emoji=False)


def say(text: str, style: str | None = None) -> None:
    """A message for the user."""
    messages.print(text, style=style, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """A warning for the user."""
    say(text, "yellow")


def fail(error: object) -> None:
    """An error for the user: one sentence that names the thing and the remedy."""
    rank = os.environ.get("RANK")
    say(f"error{f' (process {rank})' if rank else ''}: {error}", "bold red")


def guarded(
    run: Callable[[Sequence[str] | None], int | None],
    argv: Sequence[str] | None,
    mistakes: tuple[type[Exception], ...],
    interrupted: str = "Interrupted.",
) -> int:
    """Runs a command line and returns its exit code; an error ends it with one sentence.

    Args:
        run: Takes the arguments; returns the exit code, or None for 0.
        argv: The arguments; None for those of the process, which is this program's own then.
        mistakes: Errors that the user can mend, which end it with exit code 2; failures of the machine, with 3.
        interrupted: What is said on Ctrl-C, which ends it with exit code 130.
    """
    if argv is None:
        keep_freed_memory()
    try:
        return run(argv) or 0
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except mistakes as error:
        fail(error)
        return 2
    except KeyboardInterrupt:
        warn(interrupted)
        return 130
    except Exception as error:
        sentence = explain_failure(error)
        if sentence is None:
            raise
        fail(sentence)
        return 3


def counting_bar() -> Progress:
    """A bar of things done out of all, gone when it is done; none off a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal)
