"""One thread and a fixed seed, as for the models' own tests."""

from __future__ import annotations

from tests.models.conftest import repeatable

__all__ = ["repeatable"]
