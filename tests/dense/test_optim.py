"""The optimiser groups of known models."""

from __future__ import annotations

import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn

import backbones.dense  # noqa: F401  registers what is built here by name
from tests.dense.test_backbone import Detector, build, small
from tests.models.zoo import DISTINCT

LR, WD = 1e-3, 0.05


def wrapper(model: nn.Module, paramwise: dict | None = None, **optimizer) -> dict[str, tuple[float, float]]:
    """Learning rate over `LR` and weight decay of every trained parameter by name, as mmengine builds them."""
    cfg = {
        "type": "OptimWrapper",
        "constructor": "backbones.LayerDecayOptimWrapperConstructor",
        "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": WD, **optimizer},
    }
    if paramwise is not None:
        cfg["paramwise_cfg"] = paramwise
    built = build_optim_wrapper(model, cfg)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in built.optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[names[id(parameter)]] = (group["lr"] / LR, group["weight_decay"])
    assert len(built.optimizer.param_groups) <= 40
    return found


def test_layers_of_nat():
    # The stem, five blocks (one each in stages 1, 2 and 4, two in stage 3): six layers below the heads.
    found = wrapper(Detector(small("nat_m")), {"layer_decay": 0.5})
    blocks = ["stages.0.blocks.0", "stages.1.blocks.0", "stages.2.blocks.0", "stages.2.blocks.1", "stages.3.blocks.0"]
    for name, (lr, _) in found.items():
        name = name.removeprefix("backbone.model.")
        if name.startswith("stem."):
            assert lr == pytest.approx(found["backbone.model.stem.norm.bias"][0])
        elif name.startswith("stages."):
            at = [i for i, block in enumerate(blocks) if name.startswith(block)]
            if at:
                assert lr == pytest.approx(found[f"backbone.model.{blocks[at[0]]}.norm1.weight"][0])
        else:
            assert name.startswith(("backbone.out_norms.", "neck.")) and lr == 1
    scales = [found["backbone.model.stem.conv1.weight"][0]]
    scales += [found[f"backbone.model.{block}.mlp.fc1.weight"][0] for block in blocks]
    downsamplers = [f"backbone.model.stages.{i}.downsample.reduction.weight" for i in (1, 2, 3)]
    assert scales == sorted(scales) and scales[-1] == pytest.approx(0.5)
    for i, name in enumerate(downsamplers):
        assert scales[i + 1] <= found[name][0] <= scales[(2, 3, 5)[i]]
    all_scales = sorted({lr for lr, _ in found.values()})
    assert all_scales == pytest.approx([0.5**i for i in range(len(all_scales) - 1, -1, -1)])
    assert len(all_scales) >= len(blocks) + 2


def test_weight_decay_of_nat():
    found = wrapper(Detector(small("nat_m")), {"custom_keys": {"rpb": {"decay_mult": 0.0}}})
    assert {lr for lr, _ in found.values()} == {1.0}
    not_decayed = {name for name, (_, wd) in found.items() if wd == 0}
    assert {wd for _, wd in found.values()} == {0.0, WD}
    for name in found:
        plain = name.endswith((".bias", ".rpb")) or ".norm" in name or "out_norms." in name
        assert (name in not_decayed) == plain, name
    assert any(name.endswith(".rpb") for name in not_decayed) and "neck.bias" in not_decayed


def test_weight_decay_follows_the_model():
    tables = ("rpb", "relative_position_bias_table")
    for name, decayed in (("nat_m", WD), ("maxvit_t", 0.0)):
        found = wrapper(Detector(small(name)))
        assert {wd for key, (_, wd) in found.items() if key.endswith(tables)} == {decayed}


@pytest.mark.parametrize("frozen", [-1, 2])
@pytest.mark.parametrize("name", DISTINCT)
def test_every_trained_parameter_is_in_one_group(name, frozen):
    model = Detector(small(name, frozen_stages=frozen))
    found = wrapper(model, {"layer_decay": 0.8})
    assert found.keys() == {key for key, p in model.named_parameters() if p.requires_grad}
    inner = [
        lr for key, (lr, _) in found.items() if key.startswith(("backbone.model.stages.", "backbone.model.blocks."))
    ]
    assert max(inner) == pytest.approx(0.8) and min(inner) < 0.8


@pytest.mark.parametrize("name, args", [("resnet18", {}), ("swin_tiny_patch4_window7_224", {"img_size": 64})])
def test_timm_models(name, args):
    found = wrapper(Detector(build(model=name, **args)), {"layer_decay": 0.9})
    inner = {key: lr for key, (lr, _) in found.items() if key.startswith("backbone.model.")}
    assert max(inner.values()) == pytest.approx(0.9) and min(inner.values()) < 0.7
    tables = [key for key in found if key.endswith("relative_position_bias_table")]
    assert bool(tables) == name.startswith("swin") and all(found[key][1] == 0 for key in tables)


def test_custom_keys_and_least_scale():
    model = Detector(small("nat_m"))
    keys = {"neck": {"lr_mult": 2.0, "decay_mult": 0.5}, "stages.3": {"lr_mult": 0.1}, "3.blocks.0.mlp": {}}
    found = wrapper(model, {"layer_decay": 0.5, "min_scale": 0.2, "custom_keys": keys})
    assert found["neck.weight"] == pytest.approx((2.0, WD / 2))
    assert found["backbone.model.stages.3.blocks.0.attn.qkv.weight"] == pytest.approx((0.05, WD))
    assert found["backbone.model.stages.3.blocks.0.mlp.fc1.weight"] == pytest.approx((0.5, WD))
    assert found["backbone.model.stem.conv1.weight"] == pytest.approx((0.2, WD))


def test_a_step_moves_each_layer_as_much_as_its_share():
    model = Detector(small("nat_m"))
    cfg = {
        "type": "OptimWrapper",
        "constructor": "backbones.LayerDecayOptimWrapperConstructor",
        "optimizer": {"type": "SGD", "lr": LR, "weight_decay": 0.0},
        "paramwise_cfg": {"layer_decay": 0.5},
    }
    optimizer = build_optim_wrapper(model, cfg)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer.update_params(sum(p.sum() for p in model.parameters()))
    shares = {key: ((before[key] - p).mean() / LR).item() for key, p in model.named_parameters()}
    assert shares["neck.weight"] == pytest.approx(1, rel=1e-3)
    assert shares["backbone.model.stages.3.blocks.0.mlp.fc1.weight"] == pytest.approx(0.5, rel=1e-3)
    assert shares["backbone.model.stem.conv1.weight"] < 0.1


@pytest.mark.parametrize(
    "paramwise, optimizer, message",
    [
        (
            {"decay_rate": 0.9},
            {},
            "paramwise_cfg has no option decay_rate: it takes layer_decay, min_scale, custom_keys",
        ),
        ({}, {"weight_decay": None}, "give the optimizer lr and weight_decay"),
    ],
)
def test_bad_options(paramwise, optimizer, message):
    with pytest.raises(ValueError, match=message):
        wrapper(Detector(small("nat_m")), paramwise, **optimizer)


def test_no_backbone():
    with pytest.raises(ValueError, match=r'use one of type "backbones\.Backbone"'):
        wrapper(nn.Sequential(nn.Conv2d(3, 4, 1)))
