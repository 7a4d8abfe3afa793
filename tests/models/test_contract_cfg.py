"""Every model and every set of weights, as timm's registry sees them."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg, model_entrypoint

import backbones
from backbones.models import family_of
from backbones.models.registry import Family, Variant, Weights, register_family

from .zoo import MODELS, TAGGED, UNPUBLISHED, features_shape, on_meta, tiny


def test_the_zoo_is_the_module_backbones():
    assert MODELS and timm.list_models(module="backbones") == MODELS
    assert backbones.list_models("*", pretrained=True) == timm.list_models(module="backbones", pretrained=True)
    assert set(TAGGED) == {f"{name}.{tag}" for name in MODELS for tag in family_of(name).variants[name].weights}


@pytest.mark.parametrize("name", MODELS)
def test_entry_point(name):
    entry_point = model_entrypoint(name)
    assert (entry_point.__name__, entry_point.__module__) == (name, "backbones")
    assert family_of(name).paper_name in entry_point.__doc__
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)


def test_registering_a_taken_name_fails():
    variant = Variant({}, {"in1k": Weights(url="https://example.org/weights.pth")})
    for name in ("resnet18", MODELS[0]):
        entry_point = model_entrypoint(name)
        with pytest.raises(ValueError, match=f"{name}.*already registered"):
            register_family(Family(torch.nn.Module, {name: variant}, "A Paper", "arXiv:2001.00001", "", "mit"))
        assert model_entrypoint(name) is entry_point


@pytest.mark.parametrize("tagged", TAGGED)
def test_pretrained_cfg_is_complete(tagged):
    cfg = get_pretrained_cfg(tagged)
    name, tag = tagged.split(".", 1)
    assert (cfg.architecture, cfg.tag) == (name, tag)
    if tagged in UNPUBLISHED:
        assert not cfg.has_weights and any("publish" in note for note in cfg.notes), "say that there is no file"
    else:
        assert cfg.has_weights and (cfg.hf_hub_id or re.match(r"https?://\S+$", cfg.url))
    channels, height, width = cfg.input_size
    assert channels == 3 and min(height, width) >= 32
    assert len(cfg.mean) == len(cfg.std) == 3 and all(0 < v < 1 for v in (*cfg.mean, *cfg.std))
    assert 0.5 < cfg.crop_pct <= 1 and cfg.crop_mode in ("center", "squash", "border")
    assert cfg.interpolation in ("bilinear", "bicubic")
    assert cfg.num_classes > 0
    assert cfg.license and re.fullmatch(r"[a-z0-9.-]+", cfg.license)
    assert re.match(r"https://\S+$", cfg.origin_url)
    assert cfg.paper_name and re.fullmatch(r"arXiv:\d{4}\.\d{5}", cfg.paper_ids)


@pytest.mark.parametrize("tagged", [t for t in TAGGED if re.search(r"[._]in1k(_|$)", t) and t not in UNPUBLISHED])
def test_imagenet_1k_weights_note_their_published_accuracy(tagged):
    notes = get_pretrained_cfg(tagged).notes
    (top1,) = [match[1] for note in notes if (match := re.fullmatch(r"published ImageNet-1K top-1: ([\d.]+)", note))]
    assert 60 < float(top1) < 95


@pytest.mark.parametrize("name", MODELS)
def test_default_weights_are_the_first_of_the_table(name):
    assert get_pretrained_cfg(name).tag == next(iter(family_of(name).variants[name].weights))


@pytest.mark.parametrize("tagged", TAGGED)
def test_cfg_describes_the_model(tagged):
    name, tag = tagged.split(".", 1)
    variant = family_of(name).variants[name]
    model = on_meta(tagged)
    args = {**variant.args, **variant.weights[tag].args, "num_classes": model.pretrained_cfg["num_classes"]}
    described = repr(family_of(name).model(**args, device="meta"))
    assert repr(model) == described, "a tag must bring its constructor arguments"
    cfg = model.pretrained_cfg
    features = model.forward_features(torch.empty(1, *cfg["input_size"], device="meta"))
    assert features.shape == (1, *features_shape(model, *cfg["pool_size"]))
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    assert model.forward_head(features).shape == (1, cfg["num_classes"])
    assert model.in_chans == cfg["input_size"][0]
    state = model.state_dict()
    for conv in family_of(name).first_convs:
        assert state[f"{conv}.weight"].shape[1] == 3 and state[f"{conv}.weight"].ndim == 4
    assert state[f"{cfg['classifier']}.weight"].shape == (cfg["num_classes"], model.head_hidden_size)
    assert model.get_classifier() is model.get_submodule(cfg["classifier"])


@pytest.mark.parametrize("name", MODELS)
def test_unknown_arguments_are_refused(name):
    with pytest.raises(TypeError, match="not_an_argument"):
        on_meta(name, not_an_argument=1)
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        on_meta(f"{name}.no_such_tag")


@pytest.mark.parametrize("name", MODELS)
def test_any_size_needs_no_setting(name):
    """A model that stores its size says so and can be told another; any other takes every size as it is."""
    model = tiny(name)
    if model.pretrained_cfg.get("fixed_input_size"):
        model.set_input_size(img_size=(96, 64))
    elif hasattr(model, "set_input_size"):
        before = model(torch.ones(1, 3, 64, 96)).shape
        model.set_input_size(img_size=(96, 64))
        assert model(torch.ones(1, 3, 64, 96)).shape == before
    assert model(torch.ones(1, 3, 96, 64)).isfinite().all()
