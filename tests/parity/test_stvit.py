"""STViT against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from tests.parity.checks import check_maps, published
from tests.parity.parity import load, make_input, worst_error

FIXTURES = Path(__file__).parent / "fixtures" / "stvit"
TOLERANCE = 3e-5  # float32 itself errs by 2e-5: activations rise threefold a block under the filling rule
NAMES = {
    "stvit_base": "stvit_b",
    "stvit_small": "stvit_s",
    "stvit_small-dense": "stvit_s",
    "stvit_small-iter": "stvit_s",
    "stvit_small-shallow": "stvit_s",
}
PARAMETERS = {"stvit_s": 25_495_624, "stvit_b": 51_691_288, "stvit_l": 94_971_096}


@pytest.mark.parametrize("path", NAMES)
@torch.inference_mode()
def test_classification(path):
    fixture = load(FIXTURES / f"{path}.json.gz")
    config = fixture["config"]
    args = {"depths": config["depths"], "cell_sizes": config["stoken_size"], "num_iters": config["n_iter"]}
    model = published(NAMES[path], fixture, **args)
    constants = 2 * 9 * 9 * sum(config["depths"])  # one-hot kernels that the authors count
    assert sum(p.numel() for p in model.parameters()) == fixture["parameters"] - constants
    for run in fixture["runs"]:
        final, maps = model.forward_intermediates(make_input(run["input"]))
        check_maps(run["features"], maps, TOLERANCE)
        assert worst_error(run["logits"], model.forward_head(final)) < TOLERANCE


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
