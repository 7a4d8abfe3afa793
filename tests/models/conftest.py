"""One thread and a fixed seed for every model test: models are tiny, and runs repeat."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def repeatable():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
