"""EMOv2 against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from tests.parity.checks import check_dense, check_maps, published
from tests.parity.models import CLASSIFICATION
from tests.parity.parity import load, make_input, worst_error

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 5e-6  # a wrong epsilon of the BatchNorms moves the outputs by 1e-5
NAMES = {path: name for path, name in CLASSIFICATION.items() if path.startswith("emov2/")}
PARAMETERS = {
    "emov2_1m": 1_460_844,
    "emov2_2m": 2_384_312,
    "emov2_5m": 5_126_440,
    "emov2_5m.in1k_512": 5_126_440,
    "emov2_20m": 20_195_208,
    "emov2_50m": 49_815_560,
    "emov1_1m": 1_454_316,
    "emov1_2m": 2_374_840,
    "emov1_5m": 5_110_312,
    "emov1_20m": 20_170_632,
}


@pytest.mark.parametrize("path", NAMES)
@torch.inference_mode()
def test_classification(path):
    fixture = load(FIXTURES / f"{path}.json.gz")
    model = published(NAMES[path], fixture)
    assert sum(p.numel() for p in model.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        x = make_input(run["input"])
        final, maps = model.forward_intermediates(x)
        assert worst_error(run["logits"], model.forward_head(final)) < TOLERANCE
        check_maps(run["features"], maps, TOLERANCE)


@torch.inference_mode()
def test_features_only():
    fixture = load(FIXTURES / "emov2/EMO2_1M_k5_hybrid.json.gz")
    model = published("emov2_1m", fixture, features_only=True)
    run = fixture["runs"][0]
    check_maps(run["features"], model(make_input(run["input"])), TOLERANCE)


@torch.inference_mode()
def test_dense():
    check_dense(FIXTURES / "emov2/EMO2_1M_k5_hybrid-dense.json.gz", "emov2_1m", TOLERANCE)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
