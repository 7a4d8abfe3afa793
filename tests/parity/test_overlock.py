"""OverLoCK against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch

from backbones.dense import DenseBackbone
from backbones.layers.conv.contmix import ContMixBlock
from backbones.models import family_of
from tests.parity.parity import load, make_input, official_state_dict, worst_error

FIXTURES = Path(__file__).parent / "fixtures" / "overlock"
NAMES = sorted(path.name.removesuffix(".json.gz") for path in FIXTURES.glob("*.json.gz"))
DENSE = [name for name in NAMES if "-dense-" in name]
CLASSIFIERS = [name for name in NAMES if name.startswith("overlock_") and name not in DENSE]
FEATURES, LOGITS, BLOCK = 1e-4, 2e-5, 2e-5  # tolerances; a mirrored bias table moves the logits of T by 4e-4
# Training form with and without auxiliary head, merged form with and without.
PARAMETERS = {
    "overlock_xt": (17_307_272, 16_969_600, 16_791_384, 16_453_712),
    "overlock_t": (34_990_472, 34_476_448, 33_981_064, 33_467_040),
    "overlock_s": (58_309_772, 57_795_748, 56_670_476, 56_156_452),
    "overlock_b": (98_012_968, 97_434_816, 95_520_680, 94_942_528),
}


def test_fixtures_are_there():
    assert CLASSIFIERS and DENSE and "contmix-block" in NAMES


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    forms = [(merged, aux_head) for merged in (False, True) for aux_head in (True, False)]
    models = [timm.create_model(name, merged=m, aux_head=a, device="meta") for m, a in forms]
    assert tuple(sum(p.numel() for p in m.parameters()) for m in models) == PARAMETERS[name]


@pytest.mark.parametrize("args", [{"aux_head": True}, {"merged": True}], ids=["training", "merged"])
@pytest.mark.parametrize("name", CLASSIFIERS)
@torch.inference_mode()
def test_classification(name, args):
    fixture = load(FIXTURES / f"{name}.json.gz")
    overlay = {"state_dict": official_state_dict(fixture)}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **args).eval()
    seen = {}
    model.stages[2].base.register_forward_hook(lambda *a: seen.update(base_stage3=a[2]))
    model.stages[2].overview.register_forward_hook(lambda *a: seen.update(overview=a[2]))
    for run in fixture["runs"]:
        x = make_input(run["input"])
        final, maps = model.forward_intermediates(x)
        for expected, got in zip(run["features"], maps, strict=True):
            assert worst_error(expected, got) < FEATURES
        for key, expected in run["extra"].items():
            assert worst_error(expected, seen[key]) < FEATURES
        assert worst_error(run["logits"], model.forward_head(final)) < LOGITS
        if "aux_head" in args:
            assert worst_error(run["aux_logits"], model.aux_head(seen["overview"])) < LOGITS


@torch.inference_mode()
def test_features_only():
    fixture = load(FIXTURES / "overlock_xt.json.gz")
    overlay = {"state_dict": official_state_dict(fixture)}
    model = timm.create_model("overlock_xt", features_only=True, pretrained=True, pretrained_cfg_overlay=overlay)
    run = fixture["runs"][0]
    for expected, got in zip(run["features"], model.eval()(make_input(run["input"])), strict=True):
        assert worst_error(expected, got) < FEATURES


@pytest.mark.parametrize("name", DENSE)
@torch.inference_mode()
def test_dense(name):
    fixture = load(FIXTURES / f"{name}.json.gz")
    backbone = DenseBackbone(name.split("-")[0], overview_out=name.endswith("-det")).eval()
    backbone.load_state_dict(backbone.convert_checkpoint(official_state_dict(fixture)))
    assert sum(p.numel() for p in backbone.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        for expected, got in zip(run["features"], backbone(make_input(run["input"])), strict=True):
            assert worst_error(expected, got) < FEATURES


@pytest.mark.parametrize("merged", [False, True])
@torch.inference_mode()
def test_contmix_block(merged):
    fixture = load(FIXTURES / "contmix-block.json.gz")
    config = fixture["config"]
    block = ContMixBlock(
        config["dim"],
        config["kernel_size"],
        config["smk_size"],
        config["num_heads"],
        config["mlp_ratio"],
        res_scale=config["res_scale"],
        layer_scale=config["ls_init_value"],
        merged=merged,
    ).eval()
    convert = family_of("overlock_xt").convert_checkpoint
    block.load_state_dict(convert(official_state_dict(fixture), block))
    if not merged:
        assert sum(p.numel() for p in block.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        assert worst_error(run["features"][0], block(make_input(run["input"]))) < BLOCK
