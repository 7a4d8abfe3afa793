"""Weights in and out: state dicts, timm's loaders, the authors' key names, copies, and libraries that build on timm."""

from __future__ import annotations

import copy
import pickle

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from backbones.models import family_of

from .zoo import DISTINCT, MODELS, PYRAMIDS, full_size, image, stir, tiny


@pytest.mark.parametrize("name", DISTINCT)
def test_state_dict_round_trip(name, tmp_path):
    model, other = stir(tiny(name)), tiny(name, seed=1)
    with torch.no_grad():
        expected = model(image())
        assert not torch.equal(other(image()), expected)
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
        assert torch.equal(other(image()), expected)


@pytest.mark.parametrize("name", DISTINCT)
def test_copies_are_independent(name):
    model = stir(tiny(name))
    with torch.no_grad():
        expected = model(image())
        for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(duplicate(image()), expected)
            stir(duplicate)
            assert not torch.equal(duplicate(image()), expected)
            assert torch.equal(model(image()), expected)


@pytest.mark.parametrize("name", MODELS)
def test_our_own_keys_pass_through_the_authors_mapping(name):
    model = full_size(name)
    state = model.state_dict()
    converted = family_of(name).convert_checkpoint(dict(state), model)
    assert list(converted) == list(state)
    assert [t.shape for t in converted.values()] == [t.shape for t in state.values()]


@pytest.mark.parametrize("name", DISTINCT)
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_our_own_checkpoint_loads_through_the_pretrained_path(name, wrapper):
    model = stir(tiny(name))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if wrapper:
        state = {wrapper: {f"module.{k}": v for k, v in state.items()}, "epoch": 3}
    overlay = {"state_dict": state}
    loaded = tiny(name, seed=1, pretrained=True, pretrained_cfg_overlay=dict(overlay))
    with torch.no_grad():
        assert torch.equal(loaded(image()), model(image()))


def test_a_checkpoint_that_does_not_fit_is_refused():
    state = {k: v for k, v in tiny("nat_t").state_dict().items() if not k.startswith("stem.")}
    with pytest.raises((RuntimeError, ValueError), match=r"stem\.conv1"):
        tiny("nat_t", pretrained=True, pretrained_cfg_overlay={"state_dict": state})


@pytest.mark.parametrize("name", DISTINCT)
def test_pretrained_weights_with_other_classes_and_channels(name):
    model = stir(tiny(name))
    if hasattr(model.stem, "pre_affine"):  # DHVT's map of the image's channels, of which other images get the mean
        model.stem.pre_affine.reset_parameters()
    first = [f"{conv}.weight" for conv in family_of(name).first_convs]
    classifier = model.pretrained_cfg["classifier"]
    overlay = {"state_dict": model.state_dict()}
    grey = tiny(name, seed=1, pretrained=True, pretrained_cfg_overlay=dict(overlay), num_classes=5, in_chans=1)
    x = image(channels=1)
    with torch.no_grad():
        expected = model.forward_features(x.expand(-1, 3, -1, -1))
        error = (grey.forward_features(x) - expected).abs().max()
        assert error < 1e-4 * expected.abs().max(), "the image convolution must be summed over the channels"
        assert grey(x).shape == (2, 5)
    for key, value in grey.state_dict().items():
        if key not in first and not key.startswith((f"{classifier}.", "stem.pre_affine.")):
            assert torch.equal(value, model.state_dict()[key])
    wide = tiny(name, seed=1, pretrained=True, pretrained_cfg_overlay=dict(overlay), num_classes=0, in_chans=4)
    assert wide(image(channels=4)).shape == (2, model.head_hidden_size)


@pytest.mark.parametrize("name", DISTINCT)
def test_hub_folder_round_trip(name, tmp_path):
    model = stir(tiny(name))
    save_for_hf(model, tmp_path, model_args=dict(family_of(name).tiny), safe_serialization=True)
    assert not list(tmp_path.glob("*.bin")), "only safetensors may be written"
    source = f"local-dir:{tmp_path}"
    x = image(64, 96)
    with torch.no_grad():
        whole = timm.create_model(source, pretrained=True).eval()
        assert torch.equal(whole(x), model(x))
        assert whole.pretrained_cfg["license"] == model.pretrained_cfg["license"]
        grey = timm.create_model(source, pretrained=True, num_classes=5, in_chans=1).eval()
        assert grey(x[:, :1]).shape == (2, 5)
        net = timm.create_model(source, pretrained=True, features_only=True, out_indices=(1, 3)).eval()
        expected = model.forward_intermediates(x, indices=[1, 3], intermediates_only=True)
        assert all(torch.equal(o, e) for o, e in zip(net(x), expected, strict=True))


@pytest.mark.parametrize("name", PYRAMIDS)
def test_segmentation_models_pytorch(name):
    model = smp.Unet(f"tu-{name}", encoder_weights=None, in_channels=1, classes=2, **family_of(name).tiny)
    mask = model(image(64, 96, channels=1))
    assert mask.shape == (2, 2, 64, 96)
    mask.square().sum().backward()
    assert not [n for n, p in model.encoder.named_parameters() if p.grad is None]
