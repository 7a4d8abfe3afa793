"""Augmentation and crops."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp
from torch import nn

from backbones.train.data.datasets import build_dataset
from backbones.train.data.transforms import evaluation_transform, guard_posterize, posterize, training_transform
from backbones.train.evaluation.evaluate import Forward
from backbones.train.loop.components import build_loaders
from backbones.train.loop.distributed import World
from backbones.train.options import OptionError
from backbones.train.options.recipe import list_recipes, resolve


@pytest.fixture
def strict_posterize(monkeypatch):
    """Pillow 13's check, whatever Pillow is installed."""
    original = ImageOps.posterize

    def checked(image, bits):
        if not 1 <= bits <= 8:
            raise ValueError("bits must be between or equal to 1 and 8")
        return original(image, bits)

    monkeypatch.setattr(ImageOps, "posterize", checked)


def noise(mode="RGB"):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_posterize_to_no_bits_is_black(mode, strict_posterize):
    """As Pillow before version 13 computed it: every value is masked with 0."""
    for bits in (0, -1):
        result = posterize(noise(mode), bits)
        assert result.mode == mode and not np.asarray(result).any()
    for bits in range(1, 9):
        mask = 256 - 2 ** (8 - bits)
        assert np.array_equal(np.asarray(posterize(noise(mode), bits)), np.asarray(noise(mode)) & mask)


def policies_of(transform):
    found = []
    for step in transform.transforms:
        for policy in [getattr(step, "ops", []), *getattr(step, "policy", [])]:
            found += [op for op in policy if isinstance(op, AugmentOp) and "Posterize" in op.name]
    return found


@pytest.mark.parametrize(
    "policy", ["rand-m9-mstd0.5-inc1", "rand-m15-mmax30-inc1", "rand-m0", "augmix-m10", "v0", "originalr"]
)
def test_policies_posterize_at_every_level(policy, strict_posterize):
    transform = guard_posterize(create_transform(8, is_training=True, auto_augment=policy))
    operations = policies_of(transform)
    assert operations
    for operation in operations:
        operation.prob = 1.0
        for level in range(0, 31):
            operation.magnitude, operation.magnitude_std, operation.magnitude_max = level, 0, 30
            operation(noise())


def test_every_recipe_augments_at_the_highest_level(strict_posterize):
    """The transform that a run builds from each recipe."""
    data = build_dataset(None, "train")
    seen = 0
    for name in list_recipes():
        for given in ({"workers": 0}, {"workers": 0, "model": "test_vit"}):
            try:
                options = resolve(name, given)
                break
            except ValueError:  # a recipe for several models
                continue
        config = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        config.update(interpolation="bicubic", crop_pct=1.0, crop_mode="center")

        class Both:
            train = val = data

        train, _ = build_loaders(options, Both, config, World(0, 1, torch.device("cpu")))
        for operation in policies_of(train.dataset.transform):
            operation.prob, operation.magnitude, operation.magnitude_std = 1.0, 10, 0
            random.seed(0)
            operation(noise())
            seen += 1
    assert seen >= 9


@pytest.mark.parametrize("splits", [0, 2])
def test_padding_in_place_of_resizing(splits):
    """Every training image is a part of the padded one, pixel by pixel; all its offsets occur."""
    given = {"model": "test_vit", "train_crop_padding": 2, "hflip": 0.0, "color_jitter": None, "aug_splits": splits}
    options = resolve("demo", {**given, "aa": None, "reprob": 0.0, "mixup": 0.0, "cutmix": 0.0})
    config = {"input_size": (3, 8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bicubic"}
    transform = training_transform(options, config)
    pixels = torch.zeros(3, 12, 12, dtype=torch.uint8)
    pixels[:, 2:10, 2:10] = torch.from_numpy(np.array(noise())).permute(2, 0, 1)
    windows = pixels.unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    torch.manual_seed(0)
    seen = set()
    for _ in range(200):
        views = (transform(noise()) * 255).round().byte().view(-1, 3, 8, 8)
        found = [(windows == view).flatten(1).all(1).nonzero().item() for view in views]
        assert len(set(found)) == 1, "all splits have the same crop"
        seen.update(found)
    assert seen == set(range(25))


def test_padding_is_a_crop_of_its_own():
    for other, flag in (({"no_aug": True}, "--no-aug"), ({"train_crop_mode": "rkrc"}, "--train-crop-mode rkrc")):
        with pytest.raises(OptionError, match=f"crop of its own: leave out {flag}"):
            resolve("demo", {"model": "test_vit", "train_crop_padding": 2, **other})


@pytest.mark.parametrize(("crops", "tta"), [(5, False), (10, False), (5, True)])
def test_several_crops_are_averaged(crops, tta):
    config = {"input_size": (3, 24, 24), "crop_pct": 0.75, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    pixels = (torch.rand(40, 48, 3) * 255).byte().numpy()
    views = evaluation_transform(config, crops)(Image.fromarray(pixels))
    assert views.shape == (crops, 3, 24, 24)
    assert torch.equal(views[4], evaluation_transform(config)(Image.fromarray(pixels)))  # the centre
    if crops == 10:
        assert torch.equal(views[5:].flip(-1)[4], views[4])
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 6)).eval()
    logits = Forward(model, torch.device("cpu"), tta=tta)(views[None])
    every = torch.cat([views, views.flip(-1)]) if tta else views
    assert torch.allclose(logits.softmax(-1)[0], model(every).softmax(-1).mean(0), atol=1e-6)
