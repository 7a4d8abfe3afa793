"""Small weights of a real model, and the models that parity fixtures belong to."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch

from backbones.checkpoints import identification
from backbones.models import family_of
from tests.parity.cases import cases, published

#: Fixture with the layout of a published classifier's, or dense backbone's, file: its model.
CLASSIFIERS, DENSE = published("classifier"), published("dense")
#: Fixtures of a part of a model.
PARTS = sorted({case.path for case in cases() if case.published} - {*CLASSIFIERS, *DENSE})


TINY_NAME = "nat_m.in1k"


def publish(monkeypatch, url: str | None, name: str = TINY_NAME, **changes: Any) -> None:
    """Move a tag to another address and to test size, as if its row of the table said so."""
    model, _, tag = name.partition(".")
    family = family_of(model)
    weights = family.variants[model].weights
    for cached in ("_layouts", "_patterns"):  # what is known of the models' shapes holds for this test only
        monkeypatch.setattr(identification, cached, cache(getattr(identification, cached).__wrapped__))
    monkeypatch.setitem(weights, tag, replace(weights[tag], url=url, args=dict(family.tiny), **changes))


def tiny_state(num_classes: int = 1000, seed: int = 3) -> dict[str, torch.Tensor]:
    """Weights of the test-size model under our names, all different from what a fresh model has."""
    generator = torch.Generator().manual_seed(seed)
    model = timm.create_model("nat_m", num_classes=num_classes, **family_of("nat_m").tiny)
    return {
        key: torch.randn(value.shape, generator=generator) * 0.1 + 0.05 for key, value in model.state_dict().items()
    }


def as_published(state: dict[str, torch.Tensor], wrapper: str | None = None, prefix: str = "") -> bytes:
    """A torch file of `state`, below a wrapper key and with a prefix on every key."""
    state = {f"{prefix}{key}": value for key, value in state.items()}
    content: dict[str, Any] = {wrapper: state, "epoch": 3} if wrapper else state
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def same(model: torch.nn.Module, state: dict[str, torch.Tensor], skip: tuple[str, ...] = ()) -> bool:
    """Whether the model holds exactly these weights."""
    own = model.state_dict()
    return all(torch.equal(own[key], value) for key, value in state.items() if not key.startswith(skip or ("\0",)))


def listing(folder: Path) -> dict[str, bytes]:
    """Name and content of every visible file in a store."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*"))} if folder.is_dir() else {}
