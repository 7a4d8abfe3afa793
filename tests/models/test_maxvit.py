"""What is special to MaxViT: windows that follow the image size, and TensorFlow's details."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf
from torch import nn

from backbones.layers.attention.relpos import RelativePositionBias2d
from backbones.layers.attention.window import GridAttention, WindowAttention
from tests.models.zoo import image, stir, tiny

TABLE = "stages.0.blocks.0.attn_block.attn.rel_pos.relative_position_bias_table"


def windows(model):
    return {module.window_size for module in model.modules() if isinstance(module, WindowAttention)}


def test_window_follows_the_image_size():
    assert windows(tiny("maxvit_t", window_size=None)) == {(7, 7)}
    assert windows(tiny("maxvit_t", window_size=None, img_size=384)) == {(12, 12)}
    assert windows(tiny("maxvit_t", window_size=None, img_size=(96, 160))) == {(3, 5)}
    assert windows(tiny("maxvit_t", window_size=(2, 3), img_size=384)) == {(2, 3)}
    assert windows(timm.create_model("maxvit_s.in1k_512", device="meta")) == {(16, 16)}
    assert windows(timm.create_model("maxvit_xl.in21k", device="meta")) == {(7, 7)}
    with pytest.raises(ValueError, match="use 32 or more"):
        tiny("maxvit_t", window_size=None, img_size=31)


@pytest.mark.parametrize("tag, resized, side", [("in1k", 256, 224), ("in1k_384", 416, 384), ("in1k_512", 544, 512)])
def test_evaluation_crops_as_the_authors_do(tag, resized, side):
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(f"maxvit_t.{tag}").to_dict())
    resize, crop, *_ = create_transform(**config).transforms
    assert (resize.size, tuple(crop.size)) == (resized, (side, side))


def bilinear(table: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Half-pixel centres, edges clamped, no antialiasing; one axis after the other."""
    for axis, size in ((1, rows), (2, columns)):
        source = (np.arange(size) + 0.5) * table.shape[axis] / size - 0.5
        source = source.clip(0, table.shape[axis] - 1)
        low = np.floor(source).astype(int)
        high = np.minimum(low + 1, table.shape[axis] - 1)
        part = (source - low).reshape([-1 if i == axis else 1 for i in range(3)])
        table = np.take(table, low, axis) * (1 - part) + np.take(table, high, axis) * part
    return table


def test_tables_of_another_window_are_resized_on_loading():
    source = stir(tiny("maxvit_t"))
    overlay = {"state_dict": source.state_dict()}
    loaded = tiny("maxvit_t", pretrained=True, pretrained_cfg_overlay=overlay, window_size=(6, 3))
    state, table = source.state_dict(), source.state_dict()[TABLE].numpy()
    np.testing.assert_allclose(loaded.state_dict()[TABLE].numpy(), bilinear(table, 11, 5), rtol=1e-5, atol=1e-6)
    for name, value in loaded.state_dict().items():
        assert name.endswith("relative_position_bias_table") or torch.equal(value, state[name])


def test_set_input_size():
    model = stir(tiny("maxvit_t"))
    model.requires_grad_(False)
    model.set_input_size(img_size=(64, 96))
    assert windows(model) == {(2, 3)} and model.window_size == (2, 3)
    assert not any(p.requires_grad for p in model.parameters())
    expected = tiny("maxvit_t", window_size=(2, 3))
    expected.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(image(64, 96)), expected(image(64, 96)))
    model.set_input_size(window_size=5)
    assert windows(model) == {(5, 5)}
    model.set_input_size()
    assert windows(model) == {(5, 5)}


@pytest.mark.parametrize("change", [{"img_size": 96}, {"window_size": 2}])
def test_saved_models_come_back_with_their_window(tmp_path, change):
    model = stir(tiny("maxvit_t"))
    model.set_input_size(**change)
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert windows(loaded) == windows(model)
    assert torch.equal(loaded(image()), model(image()))


def test_constants_of_the_authors():
    model = tiny("maxvit_t")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all((norm.eps, norm.momentum) == (1e-3, 0.01) for norm in norms)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert norms and all(norm.eps == 1e-5 for norm in norms)
    assert sum(isinstance(module, GridAttention) for module in model.modules()) * 2 == len(
        [module for module in model.modules() if isinstance(module, WindowAttention)]
    )


def test_initial_weights():
    model = tiny("maxvit_t")
    kernels = [m.weight for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    tables = [m.relative_position_bias_table for m in model.modules() if isinstance(m, RelativePositionBias2d)]
    for weights in (kernels, tables):
        values = torch.cat([w.detach().flatten() for w in weights])
        assert abs(values.std().item() - 0.02) < 0.002 and abs(values.mean().item()) < 0.002
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert biases and all(not p.any() for p in biases)


def test_widths_must_fit_the_heads():
    with pytest.raises(ValueError, match="multiples of 32"):
        tiny("maxvit_t", dims=(32, 48, 64, 64))
