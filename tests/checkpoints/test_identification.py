"""Which model a file belongs to."""

from __future__ import annotations

import pytest
import timm
import torch

import backbones
from backbones.checkpoints import identify
from backbones.dense import DenseBackbone
from tests.checkpoints.zoo import CLASSIFIERS, DENSE, PARTS, tiny_state
from tests.parity.cases import FIXTURES
from tests.parity.parity import load

#: Models whose files cannot be told apart: their names and shapes are the same.
TWINS = {frozenset(("nat_m", "dinat_m")), frozenset(("nat_b", "dinat_b")), frozenset(("nat_t", "dinat_t"))}
TWINS.add(frozenset(("nat_isotropic_s", "dinat_isotropic_s")))
TWINS.add(frozenset(("swinv2_t_window8", "swinv2_t_window16")))
TWINS.add(frozenset(("swinv2_b_window8", "swinv2_b_window12", "swinv2_b_window16")))
TWINS |= {frozenset((f"soft_{size}", f"soft_norm_{size}")) for size in "tsmlh"}
TWINS |= {frozenset((f"ravlt_{size}", f"mavit_{size}")) for size in "tsbl"}  # without their heads


def layout(path: str) -> dict[str, torch.Tensor]:
    """An authors' file without its numbers."""
    state = load(FIXTURES / f"{path}.json.gz")["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, (_, shape, _) in state.items()}


def check(found, expected: str, form: str) -> None:
    model, _, tag = expected.partition(".")
    names = list(dict.fromkeys(one.name.partition(".")[0] for one in found))
    assert names[0] == model
    assert len(names) == 1 or frozenset(names) in TWINS
    assert not tag or {expected, model} & {one.name for one in found}, "tags are told where their shapes differ"
    assert {one.form for one in found} == {form}


@pytest.mark.parametrize("path", CLASSIFIERS)
def test_classifiers(path):
    found = identify(layout(path), f"{path.rpartition('/')[2]}.pth")
    check(found, CLASSIFIERS[path], "classification")
    assert found[0].score == 1


@pytest.mark.parametrize("path", DENSE)
def test_dense(path):
    found = identify(layout(path), f"{path.rpartition('/')[2].partition('-')[0]}.pth")
    check(found, DENSE[path], "dense")
    assert found[0].score > 0.99


@pytest.mark.parametrize("path", PARTS)
def test_parts_are_nothing(path):
    state = layout(path)
    assert not state or identify(state) == []


@pytest.mark.parametrize("name", ["nat_s", "dinat_s_l", "vitrpb_b", "biformer_b", "overlock_s", "maxvit_b.in1k_384"])
def test_own_files(name):
    state = timm.create_model(name, device="meta", num_classes=12, in_chans=1).state_dict()
    check(identify({f"module.{key}": value for key, value in state.items()}), name, "classification")


def test_own_dense_files():
    check(identify(DenseBackbone("nat_s", device="meta").state_dict()), "nat_s", "dense")


def test_damaged_file_is_still_recognised():
    state = layout("nat/nat_small")
    for key in list(state)[::10]:
        del state[key]
    found = identify(state)
    assert found[0].name == "nat_s" and 0.8 < found[0].score < 1


def test_strangers():
    assert identify(timm.create_model("resnet18", device="meta").state_dict()) == []
    assert identify({"weight": torch.ones(2)}) == []
    assert identify(tiny_state()) == []  # a family of the zoo at a size of its own


def test_nothing_is_registered_by_it():
    before = backbones.list_models()
    identify({"weight": torch.ones(2)})
    assert backbones.list_models() == before
