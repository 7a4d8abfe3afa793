"""What is special to HaloNet: the paper's table of models, timm's weights at any size, tables of other windows."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from backbones.layers.attention.halo import HaloAttention
from tests.models.zoo import full_size, image, stir, tiny


@pytest.mark.parametrize(
    "name, block, halo, values, outputs, third, layers, last",
    [
        ("h0", 8, 3, 1, 0.5, 7, 50, 0),
        ("h1_paper", 8, 3, 1, 1, 10, 59, 0),
        ("h2", 8, 3, 1, 1.25, 11, 62, 0),
        ("h3", 10, 3, 1, 1.5, 12, 65, 1280),
        ("h4", 12, 2, 1, 3, 12, 65, 1280),
        ("h5", 14, 2, 2.5, 2, 23, 98, 1536),
        ("h6", 8, 4, 3, 2.75, 24, 101, 1536),
        ("h7", 10, 3, 4, 3.5, 26, 107, 2048),
    ],
)
def test_models_of_the_papers_table(name, block, halo, values, outputs, third, layers, last):
    model = full_size(f"halonet_{name}")
    assert [len(stage.blocks) for stage in model.stages] == [3, 3, third, 3]
    assert 3 * (9 + third) + 2 == layers  # with stem and classifier
    assert [info["num_chs"] for info in model.feature_info] == [int(c * outputs) for c in (64, 128, 256, 512)]
    assert model.head_hidden_size == (last or 512 * outputs)
    for width, heads, stage in zip((64, 128, 256, 512), (4, 8, 8, 8), model.stages, strict=True):
        for mixer in (b.mixer for b in stage.blocks):
            assert (mixer.block_size, mixer.halo_size, mixer.num_heads) == (block, halo, heads)
            assert mixer.q.out_features == width and mixer.kv.out_features == width * (1 + values)
        strides = [mixer.query_stride for mixer in (b.mixer for b in stage.blocks)]
        assert strides == [1 if stage is model.stages[0] else 2] + [1] * (len(stage.blocks) - 1)
    assert any(isinstance(m, nn.SiLU) for m in model.modules())


HYBRIDS = {
    "halonet_26t": "halonet26t",
    "halonet_50ts": "halonet50ts",
    "halonet_se33ts": "sehalonet33ts",
    "halonet_eca26ts": "eca_halonext26ts",
    "halonet_regnetz_b": "haloregnetz_b",
}


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids_have_the_parameters_of_timms(name):
    source = timm.create_model(HYBRIDS[name], device="meta")
    state = full_size(name).state_dict()
    assert sum(p.numel() for p in source.parameters()) == sum(p.numel() for p in full_size(name).parameters())
    assert len(state) == len(source.state_dict())
    layout = ["".join("A" if hasattr(b, "self_attn") else "B" for b in stage) for stage in source.stages]
    ours = ["".join("BA"[isinstance(b.mixer, HaloAttention)] for b in stage.blocks) for stage in full_size(name).stages]
    assert ours == layout


@pytest.mark.parametrize("name", ["halonet_eca26ts", "halonet_regnetz_b"])
def test_weights_of_timm_load(name):
    """Gates, groups, averaged attention of odd blocks, blocks without a shortcut."""
    source = stir(timm.create_model(HYBRIDS[name], num_classes=5), std=0.02).eval()
    model = timm.create_model(
        name,
        num_classes=5,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": source.state_dict(), "num_classes": 5},
    ).eval()
    x = image(*source.pretrained_cfg["input_size"][1:], batch=1)
    with torch.no_grad():
        torch.testing.assert_close(model(x), source(x), rtol=1e-4, atol=1e-4)


def test_weights_of_another_window_load():
    source, model = stir(tiny("halonet_h0")), tiny("halonet_h0", halo_size=2)
    overlay = {"state_dict": source.state_dict()}
    loaded = tiny("halonet_h0", halo_size=2, pretrained=True, pretrained_cfg_overlay=overlay)
    key = "stages.3.blocks.1.mixer.pos_embed.height_rel"
    small, large = source.get_parameter(key), loaded.get_parameter(key)
    assert (len(small), len(large)) == (11, 15) and len(model.get_parameter(key)) == 15
    assert torch.equal(large[[0, 7, 14]], small[[0, 5, 10]])


@pytest.mark.parametrize(
    "args, text",
    [
        ({"gate": "cbam"}, "gate must be one of"),
        ({"act": "gelu"}, "act must be"),
        ({"layout": ("B", "BA", "C", "A")}, "layout"),
    ],
)
def test_options_that_do_not_exist(args, text):
    with pytest.raises(ValueError, match=text):
        tiny("halonet_h0", **args)
