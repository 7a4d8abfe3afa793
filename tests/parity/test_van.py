"""VAN against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from tests.parity.checks import check_dense, check_maps, published
from tests.parity.models import CLASSIFICATION
from tests.parity.parity import load, make_input, worst_error

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 4e-5  # float32 itself errs by 1e-5 and more here: activations rise to 1e4 under the filling rule
NAMES = {path: name for path, name in CLASSIFICATION.items() if path.startswith("van/")}
PARAMETERS = {
    "van_b0": 4_105_800,
    "van_b1": 13_861_800,
    "van_b2": 26_578_472,
    "van_b3": 44_765_608,
    "van_b4": 60_283_176,
    "van_b5": 89_967_688,
    "van_b6": 199_829_416,
}


@pytest.mark.parametrize("path", NAMES)
@torch.inference_mode()
def test_classification(path):
    fixture = load(FIXTURES / f"{path}.json.gz")
    model = published(NAMES[path], fixture)
    assert sum(p.numel() for p in model.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        x = make_input(run["input"])
        assert worst_error(run["logits"], model(x)) < TOLERANCE
        check_maps(run["features"], model.forward_stages(x), TOLERANCE)
        check_maps(run["features_dense"], model.forward_stages(x, normed=True), TOLERANCE)


@torch.inference_mode()
def test_features_only():
    fixture = load(FIXTURES / "van/van_b0.json.gz")
    model = published("van_b0", fixture, features_only=True)
    (run,) = fixture["runs"]
    check_maps(run["features"], model(make_input(run["input"])), TOLERANCE)


@torch.inference_mode()
def test_dense():
    check_dense(FIXTURES / "van/van_b0-dense.json.gz", "van_b0", TOLERANCE)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
