"""SHViT, which timm builds: what the zoo knows of it, and loading of the authors' files everywhere."""

from dataclasses import replace

import pytest
import timm
import torch

import backbones
from backbones.checkpoints import Store, WeightsError, convert_file, identify, load, load_into
from backbones.dense import Backbone, DenseBackbone
from backbones.models import family_of, list_known
from backbones.models.registry import register_family
from backbones.train.evaluation.models import load_model
from tests.models.zoo import image, stir

FAMILY = family_of("shvit_s1")


def authors_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's names of S1 the other way round."""
    named = {}
    for i, part in ((1, "blocks2"), (2, "blocks3")):
        for n in range(2):
            named[f"stages.{i}.downsample.{n}."] = f"{part}.0.{n}."
            named[f"stages.{i}.downsample.{n + 3}."] = f"{part}.2.{n}."
        named[f"stages.{i}.downsample.2."] = f"{part}.1."
        for j in range(5):
            named[f"stages.{i}.blocks.{j}."] = f"{part}.{j + 3}."
    named |= {f"stages.0.blocks.{j}.": f"blocks1.{j}." for j in range(2)}
    out = {}
    for key, value in state.items():
        ours = next((prefix for prefix in named if key.startswith(prefix)), "")
        out[named.get(ours, "") + key.removeprefix(ours)] = value
    return out


@pytest.fixture
def trained():
    torch.manual_seed(0)
    return stir(timm.create_model("shvit_s1")).eval()


@pytest.fixture
def file(trained, tmp_path):
    path = tmp_path / "shvit_s1.pth"
    torch.save({"model": authors_names(trained.state_dict())}, path)
    return path


def test_known_but_not_registered_again():
    assert "shvit_s4" not in backbones.list_models()
    assert {"shvit_s1", "nat_m"} <= set(list_known()) and list_known("shvit_s[34]") == ["shvit_s3", "shvit_s4"]
    assert "shvit_s2.in1k" in list_known("shvit*", pretrained=True)
    assert timm.get_pretrained_cfg("shvit_s1").hf_hub_id.startswith("timm/")
    stranger = replace(FAMILY, variants={"shvit_s9": FAMILY.variants["shvit_s1"]})
    with pytest.raises(ValueError, match="timm has no model 'shvit_s9': update timm"):
        register_family(stranger)


@pytest.mark.parametrize("name", FAMILY.variants)
def test_agrees_with_timm(name):
    weights, cfg = FAMILY.variants[name].weights["in1k"], timm.get_pretrained_cfg(f"{name}.in1k")
    assert cfg.input_size == (3, weights.input_size, weights.input_size)
    assert (cfg.crop_pct, cfg.mean, cfg.std) == (weights.crop_pct, weights.mean, weights.std)
    assert (cfg.first_conv, cfg.classifier, cfg.license) == (FAMILY.first_conv, FAMILY.classifier, FAMILY.license)


def test_authors_file(trained, file, tmp_path):
    x = image(96, 64)
    expected = trained(x)
    other = timm.create_model("shvit_s1").eval()
    load_into(other, file)
    torch.testing.assert_close(other(x), expected)
    assert [one.name for one in identify(torch.load(file), "weights.pth")] == ["shvit_s1"]
    torch.testing.assert_close(load_model("shvit_s1", file).model(x), expected)
    store = Store(tmp_path / "store")
    convert_file(file, "shvit_s1", store)
    torch.testing.assert_close(load("shvit_s1", store).eval()(x), expected)
    with pytest.raises(WeightsError, match=r"shvit_s1\.pth does not fit shvit_s2: .*; this looks like shvit_s1"):
        load_into(timm.create_model("shvit_s2"), file)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("out_indices", [(0, 1, 2), (0, 1)])
def test_authors_file_in_detectors(trained, tmp_path, dense, out_indices):
    state = trained.state_dict()
    if dense:
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
    torch.save({"model": authors_names(state)}, tmp_path / "file.pth")
    backbone = Backbone("shvit_s1", out_indices=out_indices, pretrained=str(tmp_path / "file.pth"), norm_eval=True)
    backbone.init_weights()
    x = image(96, 64)
    expected = trained.forward_intermediates(x, intermediates_only=True)
    for a, i in zip(backbone(x), out_indices, strict=True):
        torch.testing.assert_close(a, expected[i])
    backbone = DenseBackbone("shvit_s1", out_indices=out_indices).eval()
    load_into(backbone, _headless(trained, tmp_path))
    for a, i in zip(backbone(x), out_indices, strict=True):
        torch.testing.assert_close(a, expected[i])


def _headless(model, folder):
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in authors_names(state).items()}}, folder / "d")
    return folder / "d"
