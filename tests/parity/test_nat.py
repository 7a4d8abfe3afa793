"""NAT and DiNAT against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from backbones.dense import DenseBackbone
from backbones.layers.attention.neighborhood import NeighborhoodAttention2d
from tests.parity.models import CLASSIFICATION
from tests.parity.parity import load, make_input, official_state_dict, worst_error

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-5
NAMES = {path: name for path, name in CLASSIFICATION.items() if path.startswith(("nat/", "dinat/"))}
DENSE = {
    "nat/nat_mini-dense": ("nat_m", {}),
    "dinat/dinat_mini-dense": ("dinat_m", {"dilations": "coco"}),
    "dinat/dinat_mini-seg": ("dinat_m", {"dilations": "ade20k"}),
}
PARAMETERS = {
    "nat_m": 19_984_174,
    "nat_t": 27_901_582,
    "nat_s": 50_743_297,
    "nat_b": 89_769_652,
    "dinat_m": 19_984_174,
    "dinat_t": 27_901_582,
    "dinat_s": 50_719_681,
    "dinat_b": 89_769_652,
    "dinat_l": 200_943_514,
    "dinat_l.in22k_ft_in1k_384": 200_943_514,
    "dinat_l_11x11": 201_144_250,
    "dinat_s_t": 28_288_354,
    "dinat_s_s": 49_606_258,
    "dinat_s_b": 87_768_224,
    "dinat_s_l": 196_532_476,
    "nat_isotropic_s": 21_999_736,
    "dinat_isotropic_s": 21_999_736,
    "vitrpb_s": 22_080_376,
    "nat_isotropic_b": 86_465_800,
    "dinat_isotropic_b": 86_465_800,
    "vitrpb_b": 86_627_080,
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
        maps = model.forward_intermediates(x, intermediates_only=True)
        for expected, got in zip(run["features"], maps[-len(run["features"]) :], strict=True):
            assert worst_error(expected, got) < TOLERANCE


@pytest.mark.parametrize("path", DENSE)
@torch.inference_mode()
def test_dense(path):
    fixture = load(FIXTURES / f"{path}.json.gz")
    name, args = DENSE[path]
    backbone = DenseBackbone(name, **args).eval()
    backbone.load_state_dict(backbone.convert_checkpoint(official_state_dict(fixture)))
    assert sum(p.numel() for p in backbone.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        for expected, got in zip(run["features"], backbone(make_input(run["input"])), strict=True):
            assert worst_error(expected, got) < TOLERANCE


@torch.inference_mode()
def test_attention_module():
    fixture = load(FIXTURES / "dinat/na2d-module.json.gz")
    module = NeighborhoodAttention2d(**fixture["config"]).eval()
    module.load_state_dict(official_state_dict(fixture))
    for run in fixture["runs"]:
        out = module(make_input(run["input"])).permute(0, 3, 1, 2)
        assert worst_error(run["features"][0], out) < TOLERANCE


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
