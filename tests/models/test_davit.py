"""What is special to DaViT: pairs of blocks, their stochastic depth, and timm's weights."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import DropPath

from backbones.layers.attention.channel import ChannelAttention
from backbones.layers.attention.window import WindowAttention
from backbones.models import family_of, list_models
from tests.models.zoo import full_size, image, stir, tiny


@pytest.mark.parametrize("name", list_models("davit_*"))
def test_windows_and_channels_take_turns(name):
    model = full_size(name)
    window = (12, 12) if name == "davit_l" else (7, 7)
    for info, stage in zip(model.feature_info, model.stages, strict=True):
        heads = info["num_chs"] // 32
        for block, other in zip(stage.blocks[::2], stage.blocks[1::2], strict=True):
            assert isinstance(block.attn, WindowAttention) and isinstance(other.attn, ChannelAttention)
            assert block.attn.window_size == window and block.attn.rel_pos is None and not block.attn.mask_padding
            assert block.attn.num_heads == other.attn.groups == heads


def test_stochastic_depth_rises_block_by_block():
    model = tiny("davit_t", drop_path_rate=0.3)
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.3 * i / 9 for i in range(1, 10) for _ in range(2)])


def test_weights_of_timm_load():
    source = timm.create_model(
        "davit_tiny", embed_dims=(32, 32, 64, 64), depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2), window_size=4
    ).eval()
    overlay = {"state_dict": stir(source).state_dict()}
    model = tiny("davit_t", pretrained=True, pretrained_cfg_overlay=overlay)
    x = image(75, 50)
    with torch.no_grad():
        torch.testing.assert_close(model(x), source(x), rtol=1e-4, atol=1e-4)


def test_own_keys_pass_the_conversion_unchanged():
    model = tiny("davit_t")
    own = model.state_dict()
    converted = family_of("davit_t").convert_checkpoint(own, model)
    assert converted.keys() == own.keys() and all(torch.equal(converted[key], own[key]) for key in own)


def test_widths_must_fit_the_heads():
    with pytest.raises(ValueError, match="multiples of 32"):
        tiny("davit_t", dims=(32, 48, 64, 64))
