"""CrossFormer's groups, cooling layers and files."""

from __future__ import annotations

import pytest
import timm
import torch

from backbones.models.crossformer import CrossFormerAttention
from backbones.models.registry import family_of
from tests.models.zoo import tiny


@pytest.mark.parametrize(
    "grouping, interval, size, expected",
    [
        ("classifier", 4, (28, 28), (7, 7, 4)),
        ("classifier", 4, (7, 10), (7, 7, 1)),
        ("classifier", 4, (5, 10), (5, 5, 1)),
        ("dense", 4, (5, 10), (10, 10, 1)),
        ("dense", 4, (8, 10), (7, 7, 4)),
        ("dense-2021", 4, (30, 41), (8, 11, 4)),
        ("dense-2021", 1, (30, 41), (7, 7, 1)),
        ("dense-2021", 4, (5, 41), (5, 5, 1)),
    ],
)
def test_groups(grouping, interval, size, expected):
    attention = CrossFormerAttention(32, 1, 7, interval, grouping)
    groups = attention.groups(torch.empty(1, *size, 32))
    assert (*groups.size, groups.interval[0]) == expected
    # The code of 2021 pads to a multiple of the interval alone.
    rows, columns = groups.padded
    assert rows % (groups.size[0] * groups.interval[0]) == 0 and columns >= size[1]
    if expected == (8, 11, 4):
        assert groups.padded == (32, 44) and groups.count == (4, 4)


def test_code_of_2021_agrees_where_maps_are_those_of_224():
    torch.manual_seed(0)
    attention = [CrossFormerAttention(32, 1, 7, 4, grouping).eval() for grouping in ("classifier", "dense-2021")]
    attention[1].load_state_dict(attention[0].state_dict())
    x = torch.randn(1, 28, 28, 32)
    with torch.no_grad():
        torch.testing.assert_close(attention[0](x), attention[1](x))
        assert not torch.allclose(attention[0](x[:, :20, :20]), attention[1](x[:, :20, :20]))


def test_unknown_grouping_is_refused():
    with pytest.raises(ValueError, match="grouping must be one of classifier, dense, dense-2021"):
        CrossFormerAttention(32, 1, 7, grouping="near")


def test_small_images_do_not_change_later_results():
    """The authors' dense code keeps what it has decided for a small map."""
    model = tiny("crossformer_s", grouping="dense").eval()
    x = torch.randn(1, 3, 224, 192)
    with torch.no_grad():
        expected = model(x)
        model(x[:, :, :32, :64])
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    "name, cooled", [("crossformer_pp_s", [2, 5, 8, 11, 14]), ("crossformer_pp_h", [2, 5, 8, 11, 14])]
)
def test_cooling_layers(name, cooled):
    model = timm.create_model(name, device="meta")
    found = [[j for j, b in enumerate(s.blocks) if not isinstance(b.cooling, torch.nn.Identity)] for s in model.stages]
    assert found[2] == cooled and found[3] == []
    assert found[0] == found[1] == ([2] if name.endswith("h") else [])


def test_tables_in_the_files_of_2021_are_dropped():
    state = {"layers.0.blocks.0.attn.biases": torch.zeros(169, 2), "norm.weight": torch.zeros(768)}
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    assert set(family_of("crossformer_s").rename(state)) == {"norm.weight"}
