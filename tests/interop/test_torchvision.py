"""torchvision's detectors on the zoo's feature maps."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import timm
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from backbones.models import family_of
from tests.interop.families import FAMILIES


class Pyramid(nn.Module):
    """Feature maps of a model under the names that torchvision's detectors ask for."""

    def __init__(self, name: str, width: int = 16) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True, **family_of(name).tiny)
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), width)
        self.out_channels = width

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        return self.fpn(OrderedDict((str(i), level) for i, level in enumerate(self.body(x))))


@pytest.mark.parametrize("name", FAMILIES)
def test_faster_rcnn(name):
    backbone = Pyramid(name)
    levels = len(backbone.body.feature_info.channels())
    anchors = AnchorGenerator(tuple((8 << i,) for i in range(levels)), ((1.0,),) * levels)
    pool = MultiScaleRoIAlign([str(i) for i in range(levels)], 7, 2)
    detector = FasterRCNN(
        backbone, num_classes=3, min_size=64, max_size=96, rpn_anchor_generator=anchors, box_roi_pool=pool
    )
    images = [torch.rand(3, 60, 90), torch.rand(3, 75, 50)]
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    sum(detector(images, [target, target]).values()).backward()
    assert not [key for key, value in backbone.body.named_parameters() if value.grad is None]
    with torch.no_grad():
        found = detector.eval()(images)
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2
