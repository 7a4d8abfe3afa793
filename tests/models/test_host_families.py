"""What is special about PVT and CSWin: how their maps come about, and what their files hold."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.models import cswin, family_of, pvt

from .zoo import full_size, image, on_meta, stir, tiny


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (224, 160), (250, 383)])
@pytest.mark.parametrize("name, sizes", [("pvt_t", pvt.map_sizes), ("cswin_t", cswin.map_sizes)])
def test_sizes_of_maps(name, sizes, size):
    maps = tiny(name, device="meta").forward_intermediates(
        torch.empty(1, 3, *size, device="meta"), intermediates_only=True
    )
    assert [tuple(m.shape[2:]) for m in maps] == sizes(size)


@pytest.mark.parametrize("name", ["pvt_t", "cswin_t"])
def test_images_are_at_least_32_pixels(name):
    with pytest.raises(ValueError, match=r"img_size .* must be 32 or more"):
        tiny(name, img_size=(64, 31))
    with pytest.raises(ValueError, match="img_size 16 must be 32 or more"):
        tiny(name).set_input_size(16)


def test_positions_of_pvt():
    """Bilinear on other maps; what is left of the last row and column is cut off."""
    embed = stir(pvt.PatchPositionEmbed(3, 4, 2, (3, 4)))
    for height, width in ((6, 8), (11, 7)):
        x = image(height, width)
        y = F.conv2d(x[..., : height // 2 * 2, : width // 2 * 2], embed.conv1.weight, embed.conv1.bias, stride=2)
        y = F.layer_norm(y.permute(0, 2, 3, 1), (4,), embed.norm.weight, embed.norm.bias, 1e-5).permute(0, 3, 1, 2)
        table = embed.pos_embed.table.view(1, 3, 4, 4).permute(0, 3, 1, 2)
        y = y + F.interpolate(table, size=(height // 2, width // 2), mode="bilinear")
        torch.testing.assert_close(embed(x), y)


def test_reductions_of_pvt():
    model = full_size("pvt_s")
    assert [{b.attn.reduction for b in stage.blocks} for stage in model.stages] == [{8}, {4}, {2}, {1}]
    assert {b.norm1.eps for stage in model.stages for b in stage.blocks} == {1e-6}


@pytest.mark.parametrize("name, widths", [("cswin_s", [1, 2, 7]), ("cswin_b.in1k_384", [1, 2, 12])])
def test_stripes_of_cswin(name, widths):
    stages = on_meta(name).stages
    assert [{b.attn.stripe_width for b in stage.blocks} for stage in stages[:3]] == [{width} for width in widths]
    assert all(isinstance(b.attn, GlobalAttention2d) for b in stages[3].blocks)


def test_files_of_cswin():
    """Stripes have a position encoding for each direction, the whole map has one."""
    model = stir(tiny("cswin_t"))
    file = {}
    for key, value in model.state_dict().items():
        key = key.replace("stem.conv1.", "stage1_conv_embed.0.").replace("stem.norm.", "stage1_conv_embed.2.")
        for i in range(4):
            key = key.replace(f"stages.{i}.downsample.conv1.", f"merge{i}.conv.")
            key = key.replace(f"stages.{i}.downsample.norm.", f"merge{i}.norm.")
            key = key.replace(f"stages.{i}.blocks.", f"stage{i + 1}.")
        for b in (0, 1):
            key = key.replace(f".attn.lepe.{b}.", f".attns.{b}.get_v.")
        key = key.replace(".attn.lepe.", ".attns.0.get_v.").replace(".attn.", ".").replace("head.fc.", "head.")
        file[key] = value
    assert "stage4.0.attns.0.get_v.weight" in file and "stage1.0.attns.1.get_v.bias" in file
    converted = family_of("cswin_t").convert_checkpoint(file, model)
    assert converted.keys() == model.state_dict().keys()
    assert all(torch.equal(converted[key], value) for key, value in model.state_dict().items())
