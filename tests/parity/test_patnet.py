"""PATNet against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from tests.parity.checks import check_dense, check_maps, published
from tests.parity.models import CLASSIFICATION
from tests.parity.parity import load, make_input, worst_error

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-5
NAMES = {path: name for path, name in CLASSIFICATION.items() if path.startswith("patnet/")}
# Without and with the gate of positions in the MLPs.
PARAMETERS = {
    "patnet_t0": (3_486_160, 3_558_240),
    "patnet_t1": (5_985_552, 6_144_552),
    "patnet_t2": (12_269_816, 12_650_424),
    "patnet_s": (28_013_304, 28_975_704),
    "patnet_m": (59_179_000, 61_366_776),
    "patnet_l": (100_641_336, 104_465_336),
}


@pytest.mark.parametrize("path", NAMES)
@torch.inference_mode()
def test_classification(path):
    fixture = load(FIXTURES / f"{path}.json.gz")
    model = published(NAMES[path], fixture)
    features = published(NAMES[path], fixture, features_only=True)
    assert sum(p.numel() for p in model.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        x = make_input(run["input"])
        assert worst_error(run["logits"], model(x)) < TOLERANCE
        check_maps(run["features"], features(x), TOLERANCE)


@torch.inference_mode()
def test_dense():
    check_dense(FIXTURES / "patnet/partialnet_t0-dense.json.gz", "patnet_t0", TOLERANCE)


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name, gate):
    model = timm.create_model(name, position_gate=gate, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name][gate]
