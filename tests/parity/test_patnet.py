"""PATNet against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from backbones.dense import DenseBackbone
from tests.parity.models import CLASSIFICATION
from tests.parity.parity import load, make_input, official_state_dict, worst_error

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
    overlay = {"state_dict": official_state_dict(fixture)}
    model = timm.create_model(NAMES[path], pretrained=True, pretrained_cfg_overlay=overlay).eval()
    features = timm.create_model(
        NAMES[path], pretrained=True, pretrained_cfg_overlay=overlay, features_only=True
    ).eval()
    assert sum(p.numel() for p in model.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        x = make_input(run["input"])
        assert worst_error(run["logits"], model(x)) < TOLERANCE
        for expected, got in zip(run["features"], features(x), strict=True):
            assert worst_error(expected, got) < TOLERANCE


@torch.inference_mode()
def test_dense():
    fixture = load(FIXTURES / "patnet/partialnet_t0-dense.json.gz")
    backbone = DenseBackbone("patnet_t0").eval()
    backbone.load_state_dict(backbone.convert_checkpoint(official_state_dict(fixture)))
    assert sum(p.numel() for p in backbone.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        for expected, got in zip(run["features"], backbone(make_input(run["input"])), strict=True):
            assert worst_error(expected, got) < TOLERANCE


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name, gate):
    model = timm.create_model(name, position_gate=gate, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name][gate]
