"""Receptive fields, class activation, components and similarity, against what they must be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.visualize.features import (
    ReceptiveField,
    StageError,
    class_activation,
    components,
    receptive_fields,
    run_stages,
    similarity,
)
from tests.models.zoo import tiny


class Convs(nn.Module):
    """Two stages of convolutions, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 3
        self.stages = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, padding=1)])
        self.feature_info = [{"num_chs": 8, "reduction": 2**i, "module": f"stages.{i}"} for i in range(2)]
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def test_receptive_fields_end_where_convolutions_do():
    torch.manual_seed(0)
    first, second = receptive_fields(Convs().eval(), [torch.randn(2, 3, 14, 18), torch.randn(1, 3, 14, 18)])
    seen = torch.zeros(14, 18, dtype=torch.bool)
    seen[6:9, 8:11] = True  # around (7, 9)
    assert torch.equal(first.contribution > 0, seen) and first.centre == (7.5, 9.5)
    # Of a map of 7 x 9, (3, 4) is the middle, at (6, 8) of the first stage, which sees 5 x 5 around it.
    seen[:] = False
    seen[4:9, 6:11] = True
    assert torch.equal(second.contribution > 0, seen) and second.centre == (7.0, 9.0)
    assert first.radius(0.99) == pytest.approx(2**0.5)


def test_radius_of_a_field():
    field = torch.zeros(9, 9)
    field[4, 4], field[4, 1], field[0, 0] = 5, 4, 1
    found = ReceptiveField(field, (4.5, 4.5))
    assert [found.radius(share) for share in (0.5, 0.9)] == [0, 3] and found.radius(1.0) == pytest.approx(32**0.5)


def test_class_activation_of_a_linear_classifier_is_its_weights():
    """Where a linear layer follows mean pooling, Grad-CAM is CAM (arXiv 1610.02391, section 3.1)."""
    torch.manual_seed(0)
    model, images = Convs().eval(), torch.randn(2, 3, 8, 8)
    classes = torch.tensor([2, 0])
    found = class_activation(model, images, classes)
    with torch.no_grad():
        maps = run_stages(model, images).maps[-1]
        expected = torch.einsum("bchw,bc->bhw", maps, model.fc.weight[classes]).relu()
    torch.testing.assert_close(found, expected / expected.amax((1, 2), keepdim=True))


def test_class_activation_where_the_class_token_decides():
    """The last block's patches reach nothing: the block before is shown, or a sentence said."""
    model, images = tiny("convit_b"), torch.randn(1, 3, 64, 64)
    target = torch.tensor([0])
    chosen = class_activation(model, images, target)
    torch.testing.assert_close(chosen, class_activation(model, images, target, stage=2))
    with pytest.raises(StageError, match="The output of ConViT does not depend on the map of stage 3"):
        class_activation(model, images, target, stage=3)


def test_components_are_those_of_all_images():
    torch.manual_seed(0)
    axes = torch.linalg.qr(torch.randn(6, 6)).Q[:3]
    latent = torch.randn(2, 3, 5, 7) * torch.tensor([9.0, 3.0, 1.0])[:, None, None]
    colours = components(torch.einsum("bkhw,kc->bchw", latent, axes) + 100)
    assert colours.shape == (2, 5, 7, 3) and colours.min() == 0 and colours.max() == 1
    found, expected = colours.flatten(0, 2), latent.permute(0, 2, 3, 1).flatten(0, 2)
    together = torch.corrcoef(torch.cat([found, expected], 1).T)[:3, 3:].abs()
    assert (together.diagonal() > 0.9).all() and (together - torch.diag(together.diagonal())).max() < 0.5


def test_similarity():
    features = torch.zeros(1, 2, 1, 3)
    features[0, :, 0] = torch.tensor([[1.0, 2.0, -3.0], [0.0, 2.0, 0.0]])
    torch.testing.assert_close(similarity(features, 0, 0), torch.tensor([[[1.0, 0.5**0.5, -1.0]]]))


@pytest.mark.parametrize("name", ["overlock_b", "iared2_b", "sparsifiner_lvvit_s", "nat_b"])
def test_maps_of_stages_are_those_of_timm(name):
    model, images = tiny(name), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = run_stages(model, images).maps
        expected = model.forward_intermediates(images, norm=False, intermediates_only=True)
    for stage, intermediate in zip(found[-len(expected) :], expected):
        torch.testing.assert_close(stage, intermediate, rtol=1e-3, atol=1e-4)


def test_a_model_without_stages():
    with pytest.raises(StageError, match="Linear does not say which of its modules are stages"):
        run_stages(nn.Linear(2, 2), torch.randn(1, 2))
