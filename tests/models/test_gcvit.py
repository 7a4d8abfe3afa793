"""What is special to GC ViT: windows that follow the image size, queries of a whole map, and timm's weights."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import GlobalContextVit, save_for_hf

from backbones.features import DenseBackbone
from backbones.layers.attention.window import WindowAttention
from backbones.models import family_of
from backbones.models.gcvit import QueryGenerator
from tests.models.zoo import image, stir, tiny

TABLE = "stages.2.blocks.1.attn.rel_pos.relative_position_bias_table"


def windows(model):
    """Of every stage, asserting that its queries have the same."""
    found = []
    for stage in model.stages:
        sizes = {module.window_size for module in stage.modules() if isinstance(module, WindowAttention)}
        assert sizes == {stage.query.window_size}
        found += sizes
    return found


def square(*sides):
    return [(side, side) for side in sides]


def test_windows_follow_the_image_size():
    assert windows(tiny("gcvit_xxt", window_size=None)) == square(7, 7, 14, 7)
    assert windows(tiny("gcvit_xxt", window_size=None, img_size=(96, 160))) == [(3, 5), (3, 5), (6, 10), (3, 5)]
    assert windows(tiny("gcvit_xxt", window_size=6, img_size=384)) == square(6, 6, 6, 6)
    assert windows(timm.create_model("gcvit_l.in21k_ft_in1k_384", device="meta")) == square(12, 12, 24, 12)
    assert windows(timm.create_model("gcvit_l.in21k_ft_in1k_512", device="meta")) == square(16, 16, 32, 16)
    with pytest.raises(ValueError, match="use 32 or more"):
        tiny("gcvit_xxt", window_size=None, img_size=31)


def test_dense_models_have_large_windows_and_pool_once_more():
    model = DenseBackbone("gcvit_xxt", depths=(2, 2, 2, 2)).model
    assert windows(model) == square(24, 24, 24, 24)
    assert [(len(stage.query.convs), stage.query.pools) for stage in model.stages] == [(3, 3), (2, 2), (1, 1), (1, 0)]
    assert [stage.query.pools for stage in tiny("gcvit_xxt").stages] == [3, 2, 0, 0]


def test_queries_are_made_of_the_input_of_a_stage_once():
    model, calls = tiny("gcvit_xxt", depths=(4, 2, 2, 2)), []
    for stage in model.stages:
        stage.query.register_forward_hook(lambda module, args, output: calls.append((args[0], output)))
    seen = []
    for block in model.stages[0].blocks[1::2]:
        block.attn.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    with torch.no_grad():
        x = image()
        model(x)
        stem = model.stem(x)
    assert len(calls) == 4 and len(seen) == 2
    assert torch.equal(calls[0][0], stem)
    assert all(query is calls[0][1] for query in seen)


@pytest.mark.parametrize("size", [(56, 56), (50, 67), (9, 4)])
def test_queries_of_a_map(size):
    torch.manual_seed(0)
    module = QueryGenerator(8, (7, 7), 3).eval()
    x = torch.randn(2, 8, *size)
    with torch.no_grad():
        expected = x
        for conv in module.convs:
            y = F.gelu(F.conv2d(expected, conv.dwconv.weight, padding=1, groups=8))
            gate = F.linear(
                F.gelu(F.linear(y.mean((2, 3)), conv.se.fc1.weight[..., 0, 0])), conv.se.fc2.weight[..., 0, 0]
            )
            expected = expected + F.conv2d(y * gate.sigmoid()[..., None, None], conv.pwconv.weight)
            expected = F.max_pool2d(expected, 3, 2, 1)
        if size != (56, 56):
            expected = F.interpolate(expected, size=(7, 7), mode="bicubic")
        torch.testing.assert_close(module(x), expected.flatten(2).transpose(1, 2))


def test_tables_are_resized_in_the_authors_order_of_offsets():
    """From 7 x 7 rows of query minus key to another window, through loading and through `set_input_size`."""
    model = stir(tiny("gcvit_xxt"))
    table = torch.randn(7 * 7, 2, generator=torch.Generator().manual_seed(0))
    state = {**model.state_dict(), TABLE: table}
    larger = F.interpolate(table.T.reshape(1, 2, 7, 7), size=(11, 11), mode="bicubic")[0]
    loaded = tiny("gcvit_xxt", pretrained=True, pretrained_cfg_overlay={"state_dict": state}, window_size=(2, 2, 6, 2))
    torch.testing.assert_close(loaded.state_dict()[TABLE], larger.flip(1, 2))
    model.load_state_dict(family_of("gcvit_xxt").convert_checkpoint(state, model))
    model.set_input_size(window_size=(2, 2, 6, 2))
    torch.testing.assert_close(model.state_dict()[TABLE], larger.flip(1, 2))
    assert windows(model) == square(2, 2, 6, 2)
    model.set_input_size()
    assert windows(model) == square(2, 2, 6, 2)
    model.set_input_size(img_size=(64, 96))
    assert windows(model) == [(2, 3), (2, 3), (4, 6), (2, 3)]


def test_saved_models_come_back_with_their_windows(tmp_path):
    model = stir(tiny("gcvit_xxt"))
    model.set_input_size(img_size=96)
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert windows(loaded) == windows(model) == square(3, 3, 6, 3)
    assert torch.equal(loaded(image()), model(image()))


def test_weights_of_timm_load():
    source = GlobalContextVit(img_size=64, embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)).eval()
    overlay = {"state_dict": stir(source).state_dict()}
    model = timm.create_model(
        "gcvit_xxt",
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        dims=(32, 64, 128, 256),
        depths=(2, 2, 2, 2),
        img_size=64,
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(image()), source(image()), rtol=1e-4, atol=1e-4)


def test_own_keys_pass_the_conversion_unchanged():
    model = tiny("gcvit_s")
    own = model.state_dict()
    converted = family_of("gcvit_s").convert_checkpoint(dict(own), model)
    assert converted.keys() == own.keys() and all(torch.equal(converted[key], own[key]) for key in own)


def test_widths_must_fit_the_heads():
    with pytest.raises(ValueError, match="multiples of 32"):
        tiny("gcvit_xxt", dims=(32, 48, 64, 64))
