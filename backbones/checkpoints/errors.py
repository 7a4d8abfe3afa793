"""The one error of this package."""

from __future__ import annotations


class WeightsError(RuntimeError):
    """Weights cannot be had or do not fit; the message is one sentence that names the file and the remedy."""
