"""What is special to EMOv2 and EMO v1: the block, attention in two stages, initial values, files."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from backbones.checkpoints import WeightsError
from backbones.layers.attention.hybrid import HybridWindowAttention
from backbones.models import list_models
from backbones.models.emov2.model import InvertedResidual

from .zoo import UNPUBLISHED, image, stir, tiny

MODELS = list_models("emov*")


@pytest.mark.parametrize("name", MODELS)
def test_published_blocks(name):
    model = timm.create_model(name, device="meta")
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            assert isinstance(block, InvertedResidual) and block.has_skip == (j > 0)
            assert isinstance(block.dwconv.norm, nn.BatchNorm2d) and isinstance(block.act, nn.SiLU)
            assert {m.eps for m in block.modules() if hasattr(m, "eps")} == {1e-6}
            assert block.dwconv.conv.kernel_size == ((3, 3) if name.startswith("emov1") and i < 2 else (5, 5))
            assert block.dwconv.conv.stride == ((1, 1) if j else (2, 2))
            attention = isinstance(block.expand, HybridWindowAttention)
            assert attention == (i >= 2 and j > 0)
            if attention:
                assert block.expand.close == name.startswith("emov2")
                assert block.expand.window_size == (7, 7)


def test_windows_of_the_512_pixel_file():
    model = timm.create_model("emov2_5m.in1k_512", device="meta")
    windows = {m.window_size for m in model.modules() if isinstance(m, HybridWindowAttention)}
    assert windows == {(8, 8)} and model.pretrained_cfg["input_size"] == (3, 512, 512)


def test_no_weight_depends_on_the_window():
    model, other = stir(tiny("emov2_1m")), tiny("emov2_1m", seed=1, window_size=5)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert not torch.allclose(other(image(96, 96)), model(image(96, 96)))


def test_initial_values():
    model = tiny("emov2_1m", layer_scale=1e-6)
    assert all(torch.all(p == torch.tensor(1e-6)) for n, p in model.named_parameters() if n.endswith(".ls.gamma"))
    weight = model.stages[2].blocks[1].expand.qk.weight
    assert weight.std().item() == pytest.approx((1 / (3 * weight.shape[1])) ** 0.5, rel=0.1)
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.1) and not model.head.fc.bias.any()


def test_heads_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"dims\[2\] = 30 must be a multiple of head_dims\[2\]"):
        tiny("emov2_1m", dims=(16, 24, 30, 48))


@pytest.mark.parametrize("tagged", [t for t in UNPUBLISHED if t.startswith("emov")])
def test_unpublished_weights_are_refused_in_words(tagged, tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBONES_CHECKPOINTS", str(tmp_path))
    with pytest.raises(WeightsError, match="are not published: save a file of your own"):
        timm.create_model(tagged, pretrained=True)
