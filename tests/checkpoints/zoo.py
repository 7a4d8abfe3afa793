"""Small weights of a real model, and which model each parity fixture belongs to."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import timm
import torch

from backbones.models import family_of

identify = import_module("backbones.checkpoints.identify")  # the module, which its function hides in the package
FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures"

#: Fixture of a classifier: its model.
CLASSIFIERS = {
    "nat/nat_mini": "nat_m",
    "nat/nat_small": "nat_s",
    "dinat/dinat_mini": "dinat_m",
    "dinat/dinat_base": "dinat_b",
    "dinat/dinat_s_tiny": "dinat_s_t",
    "dinat/dinat_isotropic_small": "dinat_isotropic_s",
    "dinat/vitrpb_small": "vitrpb_s",
    "biformer/biformer_tiny": "biformer_t",
    "biformer/biformer_small": "biformer_s",
    "biformer/biformer_stl": "biformer_stl",
    "overlock/overlock_xt": "overlock_xt",
    "overlock/overlock_t": "overlock_t",
    "maxvit/maxvit_tiny_tf_224": "maxvit_t",
    "maxvit/maxvit_tiny_tf_224-dense": "maxvit_t",
    "maxvit/maxvit_small_tf_224": "maxvit_s",
    "maxvit/maxvit_tiny_tf_384": "maxvit_t.in1k_384",
    "shvit/shvit_s1": "shvit_s1",
    "shvit/shvit_s3": "shvit_s3",
    "smt/smt_base": "smt_b",
    "smt/smt_tiny": "smt_t",
    "patnet/partialnet_t0": "patnet_t0",
    "patnet/partialnet_t1": "patnet_t1",
    "van/van_b0": "van_b0",
    "van/van_b1": "van_b1",
}
#: Fixture of a dense backbone: its model.
DENSE = {
    "nat/nat_mini-dense": "nat_m",
    "dinat/dinat_mini-dense": "dinat_m",
    "dinat/dinat_mini-seg": "dinat_m",
    "biformer/biformer_small-dense": "biformer_s",
    "overlock/overlock_xt-dense-det": "overlock_xt",
    "overlock/overlock_xt-dense-seg": "overlock_xt",
    "shvit/shvit_s1-dense": "shvit_s1",
    "shvit/shvit_s4-fpn-maskrcnn": "shvit_s4",
    "smt/smt_tiny-dense": "smt_t",
    "patnet/partialnet_t0-dense": "patnet_t0",
    "van/van_b0-dense": "van_b0",
}

#: Fixture of a part of a model.
PARTS = ("shvit/shvit_s1-fused", "biformer/bra-op", "dinat/na2d-module", "dinat/na2d-op", "overlock/contmix-block")


def fixtures(table: Iterable[str]) -> list[str]:
    """Fixtures of `table` that are in the tree."""
    return [path for path in table if (FIXTURES / f"{path}.json.gz").is_file()]


TINY_NAME = "nat_m.in1k"


def publish(monkeypatch, url: str | None, name: str = TINY_NAME, **changes: Any) -> None:
    """Move a tag to another address and to test size, as if its row of the table said so."""
    model, _, tag = name.partition(".")
    family = family_of(model)
    weights = family.variants[model].weights
    for cached in ("_layouts", "_patterns"):  # what is known of the models' shapes holds for this test only
        monkeypatch.setattr(identify, cached, cache(getattr(identify, cached).__wrapped__))
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
