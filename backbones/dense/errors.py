"""The error of the command lines of detection and segmentation."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 8  # names in a message


class DenseError(ValueError):
    """A mistake in a config, its data or its options; the message is one sentence with the remedy."""


def some(names: Sequence[str], limit: int = _SHOWN) -> str:
    """The first names of a list, for a message."""
    return ", ".join(map(str, names[:limit])) + (", ..." if len(names) > limit else "")
