"""Gradients, training helpers, and how parameters begin."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn

from .zoo import DISTINCT, image, stir, tiny

LABELS = torch.tensor([1, 3])


def _gradients(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = F.cross_entropy(model(x).float(), LABELS)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", DISTINCT)
@pytest.mark.parametrize("autocast", ["off", "forward", "forward and backward"])
def test_every_parameter_gets_a_finite_gradient(name, autocast):
    model = tiny(name, num_classes=5, drop_path_rate=0.1).train()
    for size in ((64, 64), (75, 50)):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast != "off"):
            logits = model(image(*size))
            assert logits.dtype == (torch.float32 if autocast == "off" else torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast == "forward and backward"):
            F.cross_entropy(logits.float(), LABELS).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert set(gradients) == {n for n, _ in model.named_parameters()}
        assert not [n for n, g in gradients.items() if not g.isfinite().all()]


# What moves the tokens of the map alone, in the last block of models whose head sees the class token alone.
UNSEEN = {"inline_deit_b": r"blocks\.3\.attn\.local\."}


@pytest.mark.parametrize("name", DISTINCT)
def test_every_parameter_moves_the_loss(name):
    """Off its initial values (layer scales near zero, last layers at zero), no parameter is without effect."""
    model = stir(tiny(name, num_classes=5, dtype=torch.float64)).train()
    _, gradients = _gradients(model, image(96, 128).double())
    # A bias that a normalisation or softmax takes out again has a gradient of rounding errors only, never exactly zero.
    assert not [n for n, g in gradients.items() if not (g.any() or re.match(UNSEEN.get(name, "$^"), n))]


@pytest.mark.parametrize("name", DISTINCT)
def test_autocast_stays_close_to_float32(name):
    model = tiny(name, num_classes=5)
    x = image(64, 96)
    with torch.no_grad():
        expected = model.forward_features(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = model.forward_features(x).float()
    assert F.cosine_similarity(actual.flatten(), expected.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("name", DISTINCT)
def test_gradient_checkpointing_changes_nothing_but_memory(name):
    model = stir(tiny(name, num_classes=5)).train()
    calls = []
    for module in model.modules():
        module.register_forward_hook(lambda module, *_: calls.append(module))
    x = image(64, 96)
    loss, gradients = _gradients(model, x)
    once = len(calls)
    calls.clear()
    model.set_grad_checkpointing()
    recomputed_loss, recomputed = _gradients(model, x)
    assert len(calls) > 1.25 * once, "the backward pass must compute the blocks again"
    torch.testing.assert_close(recomputed_loss, loss)
    for n, gradient in gradients.items():
        torch.testing.assert_close(recomputed[n], gradient, msg=lambda text, n=n: f"{n}: {text}")
    model.set_grad_checkpointing(False)
    calls.clear()
    _gradients(model, x)
    assert len(calls) == once


@pytest.mark.parametrize("name", DISTINCT)
def test_an_optimiser_of_timm_reduces_the_loss(name):
    model = tiny(name, num_classes=5).train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    losses = []
    for _ in range(8):
        loss, _ = _gradients(model, image())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.parametrize("name", DISTINCT)
def test_weight_averaging(name):
    model = tiny(name, num_classes=5).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ema = ModelEmaV3(model, decay=0.75)
    stir(model)
    ema.update(model)
    for key, value in ema.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * before[key] + 0.25 * model.state_dict()[key])
    assert ema.module.eval()(image()).isfinite().all()


@pytest.mark.parametrize("name", DISTINCT)
def test_construction_on_meta_then_reset(name):
    """`to_empty` and `reset_parameters` must give what a normal construction draws."""
    usual_model = tiny(name, num_classes=50)
    usual, other = dict(usual_model.named_parameters()), dict(tiny(name, seed=1, num_classes=50).named_parameters())
    model = tiny(name, seed=2, num_classes=50, device="meta")
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
    model.reset_parameters()
    model.init_non_persistent_buffers()
    for n, buffer in model.named_buffers():
        assert torch.equal(buffer, usual_model.get_buffer(n)), n
    for n, parameter in model.named_parameters():
        expected, actual = usual[n].detach(), parameter.detach()
        assert actual.isfinite().all(), f"{n} was left uninitialised"
        if torch.equal(expected, other[n]):  # constants, not drawn
            torch.testing.assert_close(actual, expected)
            continue
        # six standard errors of the difference of two sample means and standard deviations
        if expected.numel() > 1:
            error = 6 * (2 / expected.numel()) ** 0.5
            assert abs(actual.std() / expected.std() - 1) < error, n
            assert abs(actual.mean() - expected.mean()) < error * expected.std(), n
        assert not torch.equal(actual, expected), f"{n} must be drawn anew"
    assert model.eval()(image()).isfinite().all()


@pytest.mark.parametrize("name", DISTINCT)
def test_normal_construction_is_seeded_and_well_scaled(name):
    first, again, other = tiny(name), tiny(name), tiny(name, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    for n, parameter in first.named_parameters():
        assert parameter.abs().max() < 5, f"{n} starts far too large"
    maps = first.forward_intermediates(image(96, 96), intermediates_only=True)
    assert all(1e-4 < output.std() < 1e3 for output in maps)


@pytest.mark.parametrize("name", DISTINCT)
def test_frozen_parameters_stay_frozen(name):
    model = tiny(name)
    model.requires_grad_(False)
    model.reset_classifier(0)
    model.reset_classifier(0, "")
    assert not [n for n, p in model.named_parameters() if p.requires_grad]
