"""TransXNet against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from backbones.dense import DenseBackbone
from tests.parity.models import CLASSIFICATION
from tests.parity.parity import load, make_input, official_state_dict, worst_error

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 2e-5
NAMES = {path: name for path, name in CLASSIFICATION.items() if path.startswith("transxnet/")}
PARAMETERS = {"transxnet_t": 12_834_808, "transxnet_s": 26_864_068, "transxnet_b": 48_009_002}
DENSE_PARAMETERS = {"transxnet_t": 12_386_544, "transxnet_s": 26_352_092, "transxnet_b": 47_337_130}


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
    fixture = load(FIXTURES / "transxnet/transxnet_t.json.gz")
    overlay = {"state_dict": official_state_dict(fixture)}
    model = timm.create_model("transxnet_t", features_only=True, pretrained=True, pretrained_cfg_overlay=overlay)
    run = fixture["runs"][0]
    for expected, got in zip(run["features"], model.eval()(make_input(run["input"])), strict=True):
        assert worst_error(expected, got) < TOLERANCE


@torch.inference_mode()
def test_dense():
    fixture = load(FIXTURES / "transxnet/transxnet_t-dense.json.gz")
    backbone = DenseBackbone("transxnet_t").eval()
    backbone.load_state_dict(backbone.convert_checkpoint(official_state_dict(fixture)))
    assert sum(p.numel() for p in backbone.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        for expected, got in zip(run["features"], backbone(make_input(run["input"])), strict=True):
            assert worst_error(expected, got) < TOLERANCE


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    dense = DenseBackbone(name, device="meta")
    assert sum(p.numel() for p in dense.parameters()) == DENSE_PARAMETERS[name]
