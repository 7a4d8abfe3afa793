"""VAN against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from backbones.dense import DenseBackbone
from tests.parity.models import CLASSIFICATION
from tests.parity.parity import load, make_input, official_state_dict, worst_error

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
    overlay = {"state_dict": official_state_dict(fixture)}
    model = timm.create_model(NAMES[path], pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert sum(p.numel() for p in model.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        x = make_input(run["input"])
        assert worst_error(run["logits"], model(x)) < TOLERANCE
        for expected, got in zip(run["features"], model.forward_stages(x), strict=True):
            assert worst_error(expected, got) < TOLERANCE
        for expected, got in zip(run["features_dense"], model.forward_stages(x, normed=True), strict=True):
            assert worst_error(expected, got) < TOLERANCE


@torch.inference_mode()
def test_features_only():
    fixture = load(FIXTURES / "van/van_b0.json.gz")
    overlay = {"state_dict": official_state_dict(fixture)}
    model = timm.create_model("van_b0", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True).eval()
    (run,) = fixture["runs"]
    for expected, got in zip(run["features"], model(make_input(run["input"])), strict=True):
        assert worst_error(expected, got) < TOLERANCE


@torch.inference_mode()
def test_dense():
    fixture = load(FIXTURES / "van/van_b0-dense.json.gz")
    backbone = DenseBackbone("van_b0").eval()
    backbone.load_state_dict(backbone.convert_checkpoint(official_state_dict(fixture)))
    assert sum(p.numel() for p in backbone.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        for expected, got in zip(run["features"], backbone(make_input(run["input"])), strict=True):
            assert worst_error(expected, got) < TOLERANCE


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
