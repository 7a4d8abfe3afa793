"""SMT against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from backbones.dense import DenseBackbone
from tests.parity.checks import check_dense, check_maps, published
from tests.parity.models import CLASSIFICATION
from tests.parity.parity import load, make_input, official_state_dict, worst_error

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-5
NAMES = {path: name for path, name in CLASSIFICATION.items() if path.startswith("smt/")}
PARAMETERS = {
    "smt_t": 11_506_536,
    "smt_s": 22_550_952,
    "smt_b": 32_037_352,
    "smt_l": 80_620_264,
    "smt_l.in22k_ft_in1k_384": 80_620_264,
    "smt_l.in22k": 96_646_993,
}


@pytest.mark.parametrize("path", NAMES)
@torch.inference_mode()
def test_classification(path):
    fixture = load(FIXTURES / f"{path}.json.gz")
    model = published(NAMES[path], fixture)
    net = published(NAMES[path], fixture, features_only=True)
    assert sum(p.numel() for p in model.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        x = make_input(run["input"])
        assert worst_error(run["logits"], model(x)) < TOLERANCE
        check_maps(run["features"], net(x), TOLERANCE)
        check_maps(run["features_dense"], model.forward_stages(x, normed=True), TOLERANCE)


@torch.inference_mode()
def test_dense():
    check_dense(FIXTURES / "smt/smt_tiny-dense.json.gz", "smt_t", TOLERANCE)


@torch.inference_mode()
def test_dense_maps_of_a_classifiers_file():
    """The authors' own dense code loses its convolutions on values, which it calls by another name."""
    fixture = load(FIXTURES / "smt/smt_tiny.json.gz")
    backbone = DenseBackbone("smt_t").eval()
    state = {key: value for key, value in official_state_dict(fixture).items() if not key.startswith("head.")}
    backbone.load_state_dict(backbone.convert_checkpoint(state))
    for run in fixture["runs"]:
        check_maps(run["features_dense"], backbone(make_input(run["input"])), TOLERANCE)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
