"""Every token mixer in every host that takes any of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from backbones.layers.mixers import _GIVEN, MIXERS, Mixer, _parameters
from backbones.models.cswin import CSwinTransformer
from backbones.models.deit import DeiT
from backbones.models.pvt import PyramidVisionTransformer
from backbones.models.swin import Swin
from tests.models.zoo import image, stir

TINY = {
    DeiT: {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8},
    Swin: {"dim": 8, "depths": (2, 1, 1, 1), "num_heads": (2, 2, 2, 4)},
    PyramidVisionTransformer: {
        "dims": (8, 8, 16, 16),
        "depths": (2, 1, 1, 1),
        "num_heads": (2,) * 4,
        "mlp_ratios": (2,) * 4,
    },
    CSwinTransformer: {"dim": 8, "depths": (2, 1, 1, 1), "num_heads": (2, 2, 2, 4), "mlp_ratio": 2},
}


PAGE = Path(__file__).parents[2] / "docs" / "mixers.md"
ROWS = {
    cells[0].strip("`"): cells[1:]
    for cells in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    )
}
COLUMNS = {DeiT: 3, PyramidVisionTransformer: 4, Swin: 5, CSwinTransformer: 6}


def make(host: type, **args):
    torch.manual_seed(0)
    return host(**{**TINY[host], "num_classes": 3, "img_size": 64, **args})


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("host", TINY)
def test_pairs(host, name):
    """They train on images of their size and of another, and tell images apart."""
    model = stir(make(host, mixer=name))
    for size in ((64, 64), (40, 72)):
        logits = model(image(*size))
        assert not torch.allclose(logits[0], logits[1])
        logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MIXERS)
def test_the_page_is_in_step(name):
    """`docs/mixers.md`: options, class token, and where a host has the heads, the widths and the maps for it."""
    _, options, token, *_ = ROWS[name]
    factory = Mixer.of(name).factory
    assert re.findall(r"`(\w+)`", options) == [key for key in _parameters(factory)[0][2:] if key not in _GIVEN]
    assert token == ("yes" if Mixer.of(name).takes_prefix else "no")
    for host, column in COLUMNS.items():
        blocks = {"depth": 1} if host is DeiT else {"depths": (1, 1, 1, 1)}
        if ROWS[name][column] == "heads":
            with pytest.raises(ValueError, match="num_heads"):
                host(mixer=name, device="meta", **blocks)
        else:
            assert ROWS[name][column] in ("yes", "late")
            host(mixer=name, device="meta", **blocks)


def test_the_page_has_no_other_mixers():
    assert list(ROWS) == list(MIXERS)


@pytest.mark.parametrize("name", ["softmax", "shifted_window", "agent"])
@pytest.mark.parametrize("host", TINY)
def test_another_size_of_images(host, name):
    """A model that is told another size is one that was built for it."""
    model, other = stir(make(host, mixer=name)), make(host, mixer=name, img_size=(128, 96))
    model.set_input_size((128, 96))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(image(128, 96)), other(image(128, 96)))


def test_class_token_joins_after_the_last_mixer_of_maps():
    maps, tokens = "neighborhood", "softmax"
    for mixer, joins in ((tokens, 0), ([maps, tokens], 1), ([tokens, maps], None), (maps, None)):
        model = make(DeiT, mixer=mixer)
        assert (None if model.cls_token is None else model.class_token_at) == joins
        assert model.head.global_pool.pool_type == ("avg" if joins is None else "token")
        assert model(image()).shape == (2, 3)
        assert model.forward_features(image()).shape == (2, 64 + (joins is not None), 16)


def test_alternation_counts_the_blocks_of_a_stage():
    model = make(Swin, mixer=[["softmax", "shifted_window"], "window", "softmax", "grid"], img_size=128)
    assert model.stages[0].blocks[1].attn.shift == (3, 3) and model.stages[1].blocks[0].attn.shift == (0, 0)


def test_windows_of_swin_fit_its_maps():
    model = make(Swin, img_size=224, depths=(2, 2, 2, 2))
    found = [(b.attn.window_size[0], b.attn.shift[0]) for stage in model.stages for b in stage.blocks]
    assert found == [(7, 0), (7, 3)] * 3 + [(7, 0)] * 2
    fixed = Mixer.of({"name": "shifted_window", "fit": False})(8, 2, map_size=(7, 7), block=1)
    assert fixed.shift == (3, 3)
