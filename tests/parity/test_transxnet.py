"""TransXNet against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from backbones.dense import DenseBackbone
from tests.parity.checks import check_dense, check_maps, published
from tests.parity.models import CLASSIFICATION
from tests.parity.parity import load, make_input, worst_error

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 2e-5
NAMES = {path: name for path, name in CLASSIFICATION.items() if path.startswith("transxnet/")}
PARAMETERS = {"transxnet_t": 12_834_808, "transxnet_s": 26_864_068, "transxnet_b": 48_009_002}
DENSE_PARAMETERS = {"transxnet_t": 12_386_544, "transxnet_s": 26_352_092, "transxnet_b": 47_337_130}


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
    fixture = load(FIXTURES / "transxnet/transxnet_t.json.gz")
    model = published("transxnet_t", fixture, features_only=True)
    run = fixture["runs"][0]
    check_maps(run["features"], model(make_input(run["input"])), TOLERANCE)


@torch.inference_mode()
def test_dense():
    check_dense(FIXTURES / "transxnet/transxnet_t-dense.json.gz", "transxnet_t", TOLERANCE)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    dense = DenseBackbone(name, device="meta")
    assert sum(p.numel() for p in dense.parameters()) == DENSE_PARAMETERS[name]
