"""VSA: rates of stochastic depth, the form of detectors, how windows start, and the layout of files."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath

from backbones.features import DenseBackbone
from backbones.layers.attention.varied_window import VariedSizeWindowAttention
from backbones.models import family_of

from .zoo import full_size, image, on_meta, stir, tiny


def _attention(model: torch.nn.Module) -> list[VariedSizeWindowAttention]:
    return [module for module in model.modules() if isinstance(module, VariedSizeWindowAttention)]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("vsa_vitaev2_s", [0, 1, 2, 3, 2, 3, 4, 5, 6, 7, 8, 9, 8, 9]),
        ("vsa_vitaev2_48m", [0, 1, 2, 3, *range(2, 13), 11, 12]),
    ],
)
def test_rates_of_stochastic_depth_restart(name, numbers):
    """As in the authors' code, which counts a stage's rates from the depth of the one before."""
    model = on_meta(name, drop_path_rate=0.26)
    cells = [block for stage in model.stages for block in stage.blocks]
    rates = [[m.drop_prob for m in cell.modules() if isinstance(m, DropPath)] or [0.0] * 3 for cell in cells]
    step = 0.26 / (len(cells) - 1)
    assert rates == [pytest.approx([number * step] * 3) for number in numbers]
    assert not [m for stage in model.stages for m in stage.downsample.modules() if isinstance(m, DropPath)]


def test_published_form():
    model = full_size("vsa_vitaev2_s")
    reduction = [model.stem, *(stage.downsample for stage in model.stages[1:])]
    assert [cell.attn.q.in_features for cell in reduction] == [256, 192, 256, 512]
    assert [cell.attn.scale for cell in reduction] == [width**-0.5 for width in (128, 96, 64, 64)]
    assert {cell.norm1.eps for cell in reduction} == {1e-5} and model.stages[0].blocks[0].norm1.eps == 1e-6
    assert [cell.pcm.conv1.groups for cell in reduction] == [1, 16, 32, 64]
    assert {module.window_size for module in _attention(full_size("vsa_vitaev2_b_window12"))} == {(12, 12)}


def test_form_of_detectors():
    """Windows of 12 are the normal cells' alone there, and positions have kernels of their size."""
    backbone = DenseBackbone("vsa_vitaev2_b_window12", device="meta")
    assert {module.convention for module in _attention(backbone)} == {"detector"}
    cells = [block for stage in backbone.model.stages for block in stage.blocks]
    assert {(cell.attn.window_size, cell.pos_embed.kernel_size) for cell in cells} == {((12, 12), (13, 13))}
    assert backbone.model.stem.attn.window_size == (7, 7)
    assert isinstance(backbone.out_norms[0], torch.nn.Identity)


def test_forms_agree_where_nothing_is_padded_and_maps_are_square():
    models = [tiny("vsa_vitaev2_s", detector=detector, window_size=7) for detector in (False, True)]
    with torch.no_grad():
        for model in models:
            model.load_state_dict(stir(tiny("vsa_vitaev2_s", window_size=7)).state_dict())
        maps = [
            [m.forward_intermediates(image(*s), intermediates_only=True)[0] for m in models]
            for s in ((28, 28), (28, 56))
        ]
    torch.testing.assert_close(*maps[0])
    assert not torch.allclose(*maps[1])


def test_windows_of_swin_start_where_they_are():
    for module in _attention(tiny("vsa_swin_t")):
        assert not module.place.weight.any() and not module.place.bias.any()
    assert all(module.place.weight.any() for module in _attention(tiny("vsa_vitaev2_s")))


def test_tables_of_other_windows_are_resized():
    model = tiny("vsa_swin_t")
    key = "stages.0.blocks.0.attn.rel_pos.relative_position_bias_table"
    state = {key.replace("stages", "layers").replace("rel_pos.", ""): torch.randn(13 * 13, 1)}
    converted = family_of("vsa_swin_t").convert_checkpoint(state, model)
    assert list(converted) == [key] and converted[key].shape == (1, 7, 7)
