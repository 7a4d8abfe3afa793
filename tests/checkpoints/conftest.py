"""A store of its own and a web server for every test that asks."""

from __future__ import annotations

import pytest

from backbones.checkpoints import Store
from tests.checkpoints.server import Server


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("BACKBONES_CHECKPOINTS", str(tmp_path / "store"))
    return Store()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()
