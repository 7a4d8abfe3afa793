"""timm's SHViT, filled through our map of the authors' names, against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch
from timm.utils.model import reparameterize_model

from backbones.checkpoints import renamed
from backbones.dense import DenseBackbone
from tests.parity.models import CLASSIFICATION
from tests.parity.parity import load, make_input, official_state_dict, worst_error

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-5
NAMES = {path: name for path, name in CLASSIFICATION.items() if path.startswith("shvit/")}
# As trained, fused, and without head.
PARAMETERS = {
    "shvit_s1": (6_330_808, 6_308_660, 6_009_168),
    "shvit_s2": (11_483_072, 11_453_508, 11_033_176),
    "shvit_s3": (14_245_273, 14_210_010, 13_795_377),
    "shvit_s4": (16_588_484, 16_546_248, 16_138_588),
}


def _check(model, fixture):
    assert sum(p.numel() for p in model.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        x = make_input(run["input"])
        assert worst_error(run["logits"], model(x)) < TOLERANCE
        maps = model.forward_intermediates(x, intermediates_only=True)
        for expected, got in zip(run["features"], maps, strict=True):
            assert worst_error(expected, got) < TOLERANCE


@pytest.mark.parametrize("path", NAMES)
@torch.inference_mode()
def test_classification(path):
    fixture = load(FIXTURES / f"{path}.json.gz")
    overlay = {"state_dict": renamed(official_state_dict(fixture), NAMES[path])}
    _check(timm.create_model(NAMES[path], pretrained=True, pretrained_cfg_overlay=overlay).eval(), fixture)


@torch.inference_mode()
def test_fused():
    fixture = load(FIXTURES / "shvit/shvit_s1-fused.json.gz")
    model = reparameterize_model(timm.create_model("shvit_s1").eval())
    model.load_state_dict(renamed(official_state_dict(fixture), "shvit_s1"))
    _check(model, fixture)


@torch.inference_mode()
def test_dense():
    fixture = load(FIXTURES / "shvit/shvit_s1-dense.json.gz")
    backbone = DenseBackbone("shvit_s1").eval()
    assert backbone.channels == [128, 224, 320] and backbone.reductions == [16, 32, 64]
    backbone.load_state_dict(backbone.convert_checkpoint(official_state_dict(fixture)))
    assert sum(p.numel() for p in backbone.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        for expected, got in zip(run["features"], backbone(make_input(run["input"])), strict=True):
            assert worst_error(expected, got) < TOLERANCE


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = timm.create_model(name)
    forms = [model, reparameterize_model(model), DenseBackbone(name, device="meta")]
    assert tuple(sum(p.numel() for p in m.parameters()) for m in forms) == PARAMETERS[name]
