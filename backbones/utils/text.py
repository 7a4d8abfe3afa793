"""Phrases for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def nearest(word: object, words: Iterable[str], count: int = 3, cutoff: float = 0.5) -> list[str]:
    """The closest of `words`, the best first; empty where none is close.

    Args:
        word: What was given.
        words: What is known.
        count: How many to name.
        cutoff: Least similarity, from 0 to 1.
    """
    return difflib.get_close_matches(str(word), list(words), n=count, cutoff=cutoff)


def either(names: Sequence[object]) -> str:
    """Names as "a, b or c"."""
    *others, last = map(str, names)
    return f"{', '.join(others)} or {last}" if others else last


def did_you_mean(word: object, words: Iterable[str]) -> str:
    """ " Did you mean a, b or c?", to follow a sentence; empty where no word is close."""
    close = nearest(word, words)
    return f" Did you mean {either(close)}?" if close else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message without its full stop, or the error's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
