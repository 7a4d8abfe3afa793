"""MaxViT against what the authors' weights compute."""

import re
from pathlib import Path

import pytest
import timm
import torch

from backbones.features import DenseBackbone
from tests.parity.parity import load, make_input, official_state_dict, worst_error

FIXTURES = sorted((Path(__file__).parent / "fixtures" / "maxvit").glob("*.json.gz"))
TOLERANCE = 1e-5
SIZES = {"tiny": "t", "small": "s", "base": "b", "large": "l", "xlarge": "xl"}
PARAMETERS = {  # at 224, 384 and 512
    "maxvit_t": (30_916_528, 30_977_008, 31_049_584),
    "maxvit_s": (68_927_956, 69_018_676, 69_127_540),
    "maxvit_b": (119_467_708, 119_653_468, 119_876_380),
    "maxvit_l": (211_785_560, 212_033_240, 212_330_456),
    "maxvit_xl": (474_951_952, 475_323_472, 475_769_296),
}
PARAMETERS_21K = {"maxvit_b": 135_495_975, "maxvit_l": 233_149_635, "maxvit_xl": 506_987_643}


def build(fixture):
    size = re.match(r"maxvit_(\w+)_tf_", fixture["variant"])[1]
    config = fixture["config"]
    overlay = {"state_dict": official_state_dict(fixture), "num_classes": config["num_classes"]}
    model = timm.create_model(
        f"maxvit_{SIZES[size]}",
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        num_classes=config["num_classes"],
        window_size=tuple(config["window_size"]),
    )
    assert sum(p.numel() for p in model.parameters()) == fixture["parameters"]
    return model.eval()


def compare(model, fixture):
    for run in fixture["runs"]:
        x = make_input(run["input"])
        final, maps = model.forward_intermediates(x)
        maps = [model.stem(x), *maps]
        for expected, got in zip(run["features"], maps, strict=True):
            assert worst_error(expected, got) < TOLERANCE
        assert worst_error(run["tokens"][0], model.forward_head(final, pre_logits=True)) < TOLERANCE
        assert worst_error(run["logits"], model.forward_head(final)) < TOLERANCE


def test_fixtures_are_there():
    assert len(FIXTURES) >= 4


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name.removesuffix(".json.gz"))
def test_classification(path):
    fixture = load(path)
    model = build(fixture)
    with torch.inference_mode():
        compare(model, fixture)


def test_with_gradients():
    """With gradients enabled attention, GELU and linear layers take other routes on CPU."""
    fixture = load(FIXTURES[0].parent / "maxvit_tiny_tf_224.json.gz")
    compare(build(fixture), fixture)


def test_files_of_another_resolution_load_under_their_tag():
    fixture = load(FIXTURES[0].parent / "maxvit_tiny_tf_384.json.gz")
    overlay = {"state_dict": official_state_dict(fixture)}
    model = timm.create_model("maxvit_t.in1k_384", pretrained=True, pretrained_cfg_overlay=overlay)
    for name, value in overlay["state_dict"].items():
        assert torch.equal(model.state_dict()[name], value)


@torch.inference_mode()
def test_dense():
    fixture = load(FIXTURES[0].parent / "maxvit_tiny_tf_224-dense.json.gz")
    backbone = DenseBackbone("maxvit_t", out_norm=None).eval()
    state = {k: v for k, v in official_state_dict(fixture).items() if not k.startswith("head.")}
    backbone.load_state_dict(backbone.convert_checkpoint(state))
    for run in fixture["runs"]:
        for expected, got in zip(run["features"][1:], backbone(make_input(run["input"])), strict=True):
            assert worst_error(expected, got) < TOLERANCE


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    for side, count in zip((224, 384, 512), PARAMETERS[name]):
        model = timm.create_model(name, img_size=side, num_classes=1000, device="meta")
        assert sum(p.numel() for p in model.parameters()) == count
    if name in PARAMETERS_21K:
        model = timm.create_model(f"{name}.in21k", device="meta")
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS_21K[name]
