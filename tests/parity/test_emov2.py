"""EMOv2 against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from backbones.dense import DenseBackbone
from tests.parity.models import CLASSIFICATION
from tests.parity.parity import load, make_input, official_state_dict, worst_error

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
    overlay = {"state_dict": official_state_dict(fixture)}
    model = timm.create_model(NAMES[path], pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert sum(p.numel() for p in model.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        x = make_input(run["input"])
        final, maps = model.forward_intermediates(x)
        assert worst_error(run["logits"], model.forward_head(final)) < TOLERANCE
        for expected, got in zip(run["features"], maps, strict=True):
            assert worst_error(expected, got) < TOLERANCE


@torch.inference_mode()
def test_features_only():
    fixture = load(FIXTURES / "emov2/EMO2_1M_k5_hybrid.json.gz")
    overlay = {"state_dict": official_state_dict(fixture)}
    model = timm.create_model("emov2_1m", features_only=True, pretrained=True, pretrained_cfg_overlay=overlay)
    run = fixture["runs"][0]
    for expected, got in zip(run["features"], model.eval()(make_input(run["input"])), strict=True):
        assert worst_error(expected, got) < TOLERANCE


@torch.inference_mode()
def test_dense():
    fixture = load(FIXTURES / "emov2/EMO2_1M_k5_hybrid-dense.json.gz")
    backbone = DenseBackbone("emov2_1m").eval()
    backbone.load_state_dict(backbone.convert_checkpoint(official_state_dict(fixture)))
    assert sum(p.numel() for p in backbone.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        for expected, got in zip(run["features"], backbone(make_input(run["input"])), strict=True):
            assert worst_error(expected, got) < TOLERANCE


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
