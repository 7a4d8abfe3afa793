"""Which modules may be computed otherwise than by calling them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm

from backbones.layers.conv.basic import ConvMlp, ConvNorm
from backbones.layers.conv.multiscale import MultiScaleDepthwiseConv
from backbones.ops.plain import Extent, extent, is_plain


def own_forward(layer: nn.Module) -> None:
    layer.forward = layer.forward


def subclassed(layer: nn.Module) -> None:
    layer.__class__ = type("LoRA", (type(layer),), {})


def own_tensor(layer: nn.Module) -> None:
    class Quantised(torch.Tensor):
        pass

    layer.weight = nn.Parameter(torch.ones(4, 4).as_subclass(Quantised))


CHANGES = {
    "forward hook": lambda layer: layer.register_forward_hook(lambda *args: None),
    "forward pre-hook": lambda layer: layer.register_forward_pre_hook(lambda *args: None),
    "backward hook": lambda layer: layer.register_full_backward_hook(lambda *args: None),
    "backward pre-hook": lambda layer: layer.register_full_backward_pre_hook(lambda *args: None),
    "parametrisation": lambda layer: parametrize.register_parametrization(layer, "weight", nn.Identity()),
    "weight norm": parametrizations.weight_norm,
    "spectral norm": spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "forward of its own": own_forward,
    "subclass": subclassed,
    "tensor subclass": own_tensor,
    "compiled": lambda layer: layer.compile(backend="eager"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_modules_are_not_plain(change):
    layer = nn.Linear(4, 4)
    assert is_plain(layer) and is_plain(copy.deepcopy(layer))
    CHANGES[change](layer)
    assert not is_plain(layer)


def test_modules_are_plain_again():
    layer = nn.Conv2d(4, 4, 1)
    handle = layer.register_forward_hook(lambda *args: None)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    prune.identity(layer, "bias")
    handle.remove()
    parametrize.remove_parametrizations(layer, "weight")
    prune.remove(layer, "bias")
    assert is_plain(layer)


def test_hooks_on_all_modules():
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    try:
        assert not is_plain(nn.Linear(4, 4))
    finally:
        handle.remove()
    assert is_plain(nn.Linear(4, 4))


def test_a_class_whose_forward_was_replaced(monkeypatch: pytest.MonkeyPatch):
    forward = nn.GELU.forward
    monkeypatch.setattr(nn.GELU, "forward", lambda self, x: forward(self, x))
    assert not is_plain(nn.GELU())


def test_extent():
    chain = (nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 8, 5, padding=4, dilation=2))
    assert extent(nn.Sequential(*chain).eval()) == Extent(2, 1 + 2 * 4, 2)
    assert extent([ConvNorm(4, 6, 7).eval()]) == Extent(6, 3, 1)
    assert extent([MultiScaleDepthwiseConv(8, (3, 5, 7)).eval()]) == Extent(4, 3, 1), "they are beside each other"
    assert extent([nn.Linear(4, 12).eval()]) == Extent(12, 0, 1)
    assert extent(ConvMlp(4, 8).eval().children()).halo == math.inf, "its norm is of the whole map"


def test_what_has_no_extent():
    class Flip(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flip(2)

    for module in (
        nn.BatchNorm2d(4).train(),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Sequential(nn.Identity(), Flip()),
        Flip(),
    ):
        assert extent([module.eval() if not isinstance(module, nn.BatchNorm2d) else module]) is None
