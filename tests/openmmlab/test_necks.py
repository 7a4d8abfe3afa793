"""The neck of SHViT's detectors against the authors', and its levels."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

import backbones.dense.necks  # noqa: F401
from tests.parity.parity import load, make_input, official_state_dict, worst_error

FIXTURE = Path(__file__).parents[1] / "parity/fixtures/shvit/shvit_s4-fpn-maskrcnn.json.gz"


def neck(**args) -> torch.nn.Module:
    return MODELS.build({"type": "backbones.TransposedFPN", "out_channels": 8, **args})


@torch.inference_mode()
def test_published_detector():
    fixture = load(FIXTURE)
    parts = torch.nn.ModuleDict(
        {
            "backbone": MODELS.build({"type": "backbones.Backbone", "model": "shvit_s4"}),
            "neck": neck(in_channels=[224, 336, 448], out_channels=256, num_outs=5, num_extra_trans_convs=2),
        }
    ).eval()
    parts.load_state_dict(official_state_dict(fixture))
    assert sum(p.numel() for p in parts.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        levels = parts.neck(parts.backbone(make_input(run["input"])))
        for expected, got in zip(run["features"], levels, strict=True):
            assert worst_error(expected, got) < 1e-5


def test_coarser_levels_come_from_the_last_map():
    torch.manual_seed(0)
    module = neck(in_channels=[4, 6], num_outs=5, num_extra_trans_convs=1)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items() if key.endswith("weight")}
    assert shapes["fpn_convs.2.conv.weight"] == (8, 6, 3, 3) and shapes["fpn_convs.3.conv.weight"] == (8, 8, 3, 3)
    assert shapes["extra_trans_convs.0.conv.weight"] == (8, 8, 2, 2)
    maps = torch.randn(1, 4, 9, 12), torch.randn(1, 6, 5, 6)
    levels = module(maps)
    assert [tuple(level.shape[2:]) for level in levels] == [(18, 24), (9, 12), (5, 6), (3, 3), (2, 2)]
    third = module.fpn_convs[2](maps[1])
    torch.testing.assert_close(levels[3:], (third, module.fpn_convs[3](third)))
    sum(level.square().mean() for level in levels).backward()
    assert not [key for key, parameter in module.named_parameters() if parameter.grad is None]


def test_too_few_levels_are_named():
    with pytest.raises(ValueError, match="num_outs 3 is less than the 2 levels of the backbone and the 2 finer ones"):
        neck(in_channels=[4, 6], num_outs=3, num_extra_trans_convs=2)
    with pytest.raises(ValueError, match="takes 2 maps, not 1"):
        neck(in_channels=[4, 6], num_outs=2)((torch.zeros(1, 4, 8, 8),))
