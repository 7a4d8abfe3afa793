"""Costs against closed forms."""

import pytest
import timm
from torch import nn

from backbones.layers.attention.neighborhood import NeighborhoodAttention2d
from backbones.utils.profiling import count_macs, count_parameters, count_traffic


def test_convolution():
    model = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    assert count_parameters(model) == 3 * 8 * 9
    assert count_macs(model, (3, 16, 20)) == 3 * 8 * 9 * 16 * 20


def test_other_layers_and_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(512, 10))
    assert count_macs(model, (3, 16, 16)) == 8 * 8 * 8 * 27 + 5120
    assert model.training and next(model.parameters()).device.type == "cpu"


def test_neighborhood_attention_counts_its_window_only():
    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = NeighborhoodAttention2d(32, 2, kernel_size=7)

        def forward(self, x):
            return self.attn(x.permute(0, 2, 3, 1))

    pixels = 30 * 40
    projections = pixels * 32 * (3 * 32 + 32)
    products = 2 * pixels * 49 * 32
    assert count_macs(Map(), (32, 30, 40)) == projections + products


@pytest.mark.parametrize(("name", "published"), [("nat_m", 2.7), ("biformer_s", 4.5)])
def test_published_model(name, published):
    assert abs(count_macs(timm.create_model(name, device="meta"), (3, 224, 224)) / 1e9 - published) < 0.05


def test_traffic_counts_what_goes_through_memory():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 16, bias=False)

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)  # views
            return self.fc(x.contiguous()).mean(1)

    pixels, floats = 4 * 6, 4
    copy, weights, product, mean = 2 * 8 * pixels, 8 * 16, (8 + 16) * pixels, 16 * pixels + 16
    assert count_traffic(Model(), (8, 4, 6)) == floats * (copy + weights + product + mean)
