"""Random numbers that depend on what they are for only: not on what was drawn before."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def mix_seed(*parts: int | str) -> int:
    """A 63-bit seed from any numbers and names; different parts give unrelated seeds."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


@contextlib.contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Runs a block with Python's, NumPy's and torch's CPU generators seeded by `parts`, then restores them."""
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = mix_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])


def seed_all(*parts: int | str) -> None:
    """Seeds Python's, NumPy's and torch's generators, those of all GPUs included, by `parts`."""
    seed = mix_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
