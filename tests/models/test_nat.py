"""What is special to NAT: its dilation settings, and patches that do not divide the image."""

import pytest
import torch
from torch.export import Dim

from backbones.models.nat.model import resolve_dilations
from tests.models.zoo import image, tiny


def test_named_dilations_follow_the_depths():
    assert resolve_dilations("224", (3, 4, 6, 5)) == [(1, 8, 1), (1, 4, 1, 4), (1, 2) * 3, (1,) * 5]
    assert resolve_dilations("224", (2, 2, 6, 2)) == [(1, 8), (1, 4), (1, 2) * 3, (1, 1)]
    assert resolve_dilations("coco", (3, 4, 18, 5))[2:] == [(1, 3, 1, 5, 1, 7) * 3, (1, 3, 1, 3, 1)]


def test_wrong_dilations_are_named():
    with pytest.raises(ValueError, match="unknown dilations '225'; choose one of none, 224"):
        resolve_dilations("225", (3, 4, 6, 5))
    with pytest.raises(ValueError, match=r"one number a block; the depths are \(1, 2\)"):
        resolve_dilations([(1,), (1,)], (1, 2))


@pytest.mark.parametrize("name", ["dinat_s_t", "nat_isotropic_s"])
def test_a_program_exported_at_whole_patches_takes_any_size(name):
    model = tiny(name)
    program = torch.export.export(model, (image(224, 256),), dynamic_shapes=({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},))
    x = image(230, 243)
    torch.testing.assert_close(program.module()(x), model(x))
