"""What users put into a model, or watch in it, takes effect: nothing fast goes around it."""

from __future__ import annotations

import copy
from collections import defaultdict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from backbones.utils.profiling import counting

from .zoo import DISTINCT, MECHANISMS, image, stir, tiny

SIZE = (96, 64)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch):
    """Every map is large enough to be computed in chunks."""
    monkeypatch.setattr("backbones.ops.chunks.CHUNK", 512)


def _model(name: str) -> nn.Module:
    """Off its initial values, and small numbers all the same."""
    return stir(tiny(name, num_classes=5), std=0.05)


def _leaves(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if not module._modules}


def _watched(model: nn.Module, x: torch.Tensor) -> tuple[dict[str, list[tuple[int, ...]]], torch.Tensor]:
    """Shapes of all outputs of every leaf module, and the model's own output."""
    shapes = defaultdict(list)
    handles = [
        leaf.register_forward_hook(lambda m, args, out, name=name: shapes[name].append(tuple(out.shape)))
        for name, leaf in _leaves(model).items()
    ]
    with torch.no_grad():
        output = model(x)
    for handle in handles:
        handle.remove()
    return shapes, output


# IDConv's layers make kernels of the pooled map, and biases of its mean.
TWICE = (".mixer.conv.reduce.conv", ".mixer.conv.reduce.norm", ".mixer.conv.expand")


@pytest.mark.parametrize("name", DISTINCT)
@pytest.mark.parametrize("batch", [1, 2])
def test_every_leaf_is_called_with_the_whole_map(name, batch):
    model, x = _model(name), image(*SIZE, batch=batch)
    with torch.no_grad():
        expected = model(x)
    shapes, output = _watched(model, x)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    for path, leaf in _leaves(model).items():
        if any(True for _ in leaf.parameters()):
            assert len(shapes[path]) == (2 if any(twice in path for twice in TWICE) else 1), path
        else:  # an activation, or stochastic depth, may serve in several places
            assert shapes[path], path
    # On the meta device nothing is fused and nothing computed in chunks.
    with counting():
        assert _watched(model.to("meta"), x.to("meta"))[0] == shapes


class LoRA(nn.Module):
    """A linear layer, or a convolution, and a trained difference of low rank; it looks like the layer to others."""

    def __init__(self, base: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.base = base
        size, width = base.weight.shape[0], base.weight[0].numel()
        self.down = nn.Parameter(0.3 * torch.randn(2, width) / width**0.5)
        self.up = nn.Parameter(0.3 * torch.randn(size, 2))
        self.weight, self.bias = base.weight, base.bias
        self.calls = 0
        for key in ("in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride", "padding"):
            if hasattr(base, key):
                setattr(self, key, getattr(base, key))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        down, up = self.down, self.up
        if isinstance(self.base, nn.Linear):
            return self.base(x) + F.linear(F.linear(x, down), up)
        return self.base(x) + F.conv2d(F.conv2d(x, down[:, :, None, None]), up[:, :, None, None])

    def merged(self) -> nn.Module:
        base = copy.deepcopy(self.base)
        base.weight.data += (self.up @ self.down).view_as(base.weight).data
        return base


class Int8(nn.Module):
    """A linear layer of int8 weights and one scale a row."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        scale = base.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (base.weight.detach() / scale).round().to(torch.int8))
        self.bias = base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)

    def merged(self) -> nn.Module:
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=self.bias is not None)
        layer.weight.data = self.weight * self.scale
        layer.bias = self.bias
        return layer


def _products(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and 1x1 convolutions."""
    return {
        path: m
        for path, m in model.named_modules()
        if isinstance(m, nn.Linear)
        or (isinstance(m, nn.Conv2d) and m.kernel_size == m.stride == (1, 1) and m.groups == 1)
    }


def _replaced(model: nn.Module, wrapper: type[nn.Module], kinds: type | tuple, merge: bool = False) -> nn.Module:
    torch.manual_seed(3)
    model = copy.deepcopy(model)
    for path, module in _products(model).items():
        if isinstance(module, kinds):
            new = wrapper(module)
            model.set_submodule(path, new.merged() if merge else new)
    return model


@pytest.mark.parametrize("name", DISTINCT)
@pytest.mark.parametrize("wrapper, kinds", [(LoRA, (nn.Linear, nn.Conv2d)), (Int8, nn.Linear)])
@pytest.mark.parametrize("batch", [1, 2])
def test_replaced_layers_take_effect(name, wrapper, kinds, batch):
    model, x = _model(name), image(*SIZE, batch=batch)
    model, merged = _replaced(model, wrapper, kinds), _replaced(model, wrapper, kinds, merge=True)
    with torch.no_grad():
        torch.testing.assert_close(model(x), merged(x), rtol=1e-3, atol=1e-4)
    if batch > 1:
        torch.testing.assert_close(model.train()(x), merged.train()(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", MECHANISMS)
def test_each_replaced_layer_is_called(name):
    """Alone, without hooks: its neighbours stay what they are."""
    model, x = _model(name), image(64, 64, batch=1)
    with torch.no_grad():
        expected = model(x)
        for path, module in _products(model).items():
            lora = LoRA(module)
            lora.up.data.zero_()
            model.set_submodule(path, lora)
            torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
            assert lora.calls == (2 if any(twice in path for twice in TWICE) else 1), path
            model.set_submodule(path, module)


def _scaled(module: nn.Module) -> None:
    """Give a layer another weight through a parametrisation."""

    class Scale(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 1.5 * weight

    parametrize.register_parametrization(module, "weight", Scale())


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("batch", [1, 2])
def test_parametrised_and_pruned_layers(name, batch):
    x = image(*SIZE, batch=batch)
    for change in (_scaled, lambda m: prune.l1_unstructured(m, "weight", 0.5), parametrizations.spectral_norm):
        model = _model(name)
        with torch.no_grad():
            for module in _products(model).values():
                change(module)
        model.eval()
        # The same weights in plain layers.
        merged = _model(name)
        for path, module in _products(model).items():
            merged.get_submodule(path).weight.data.copy_(module.weight.data)
        with torch.no_grad():
            torch.testing.assert_close(copy.deepcopy(model)(x), merged(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MECHANISMS)
def test_counters_see_every_product(name, monkeypatch: pytest.MonkeyPatch):
    """By operators, as torch's own; by hooks and by replaced functions, as third parties' do."""
    model, x = _model(name), image(*SIZE, batch=1)
    seen: dict[str, int] = defaultdict(int)

    def count(way: str, weight: torch.Tensor, out: torch.Tensor) -> None:
        seen[way] += out.numel() * weight[0].numel()

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    for function in ("linear", "conv2d"):
        plain = getattr(F, function)

        def replaced(x, weight, *args, plain=plain, **kwargs):
            out = plain(x, weight, *args, **kwargs)
            count("functions", weight, out)
            return out

        monkeypatch.setattr(F, function, replaced)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.register_forward_hook(lambda m, args, out: count("hooks", m.weight, out))
    with torch.no_grad():
        model(x)
    assert counter.get_total_flops() // 2 >= seen["hooks"] > 0
    assert seen["functions"] >= seen["hooks"]
