"""Swin V2's windows, shifts and bias, the layouts of its files, and SimMIM."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models import group_parameters

from backbones.checkpoints import identify
from backbones.models.registry import family_of
from backbones.models.swin import windows_of
from backbones.models.swinv2 import SimMIM
from backbones.models.swinv2.simmim import random_masks, standardised
from tests.models.zoo import image, stir, tiny
from tests.parity.cases import FIXTURES
from tests.parity.parity import load

TRANSFERRED = {"window_size": 16, "img_size": 256, "pretrained_window_sizes": (12, 12, 12, 6)}


@pytest.mark.parametrize(
    "size, window, expected",
    [
        (256, 8, [(8, 4), (8, 4), (8, 4), (8, 0)]),
        (256, 16, [(16, 8), (16, 8), (16, 0), (8, 0)]),
        ((256, 512), 8, [(8, 4), (8, 4), (8, 4), (8, 0)]),
        (384, 24, [(24, 12), (24, 12), (24, 0), (12, 0)]),
        (224, 8, [(8, 4), (8, 4), (8, 4), (7, 0)]),
        (200, 8, [(8, 4), (8, 4), (8, 4), (7, 0)]),
    ],
)
def test_windows_follow_the_shorter_side(size, window, expected):
    assert windows_of(size, window) == expected


def test_images_and_windows_must_not_be_too_small():
    for size, window in ((31, 8), ((64, 16), 8), (64, 0)):
        with pytest.raises(ValueError, match="must be 32 or more"):
            windows_of(size, window)


def test_another_size_of_images_changes_windows_only():
    model = stir(tiny("swinv2_t_window8"))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.set_input_size((128, 96), window_size=6)
    other = tiny("swinv2_t_window8", img_size=(128, 96), window_size=6)
    other.load_state_dict(state)
    assert [b.attn.shift for b in model.stages[2].blocks] == [(0, 0), (0, 0)]
    assert [b.attn.window_size for stage in model.stages for b in stage.blocks] == [(6, 6)] * 4 + [(3, 3)]
    with torch.no_grad():
        assert torch.equal(model(image(128, 96)), other(image(128, 96)))


def test_bias_of_another_window_is_the_same_function():
    """In units of the window of the training, an offset has the same bias in every window."""
    model = stir(tiny("swinv2_t_window8", window_size=8, img_size=256, pretrained_window_sizes=(5, 5, 5, 5)))
    small = model.stages[0].blocks[0].attn.rel_pos
    large, own = small(8, 8).view(-1, 8, 8, 8, 8), small(5, 5).view(-1, 5, 5, 5, 5)
    torch.testing.assert_close(large[:, :5, :5, :5, :5], own)


def test_logits_are_bounded():
    """A scale beyond 100 changes nothing."""
    model = stir(tiny("swinv2_t_window8"))
    x = image(64, 64)
    outputs = []
    with torch.no_grad():
        for value in (4.7, 9.0, 4.0):
            for stage in model.stages:
                for block in stage.blocks:
                    block.attn.logit_scale.fill_(value)
            outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1]) and not torch.allclose(outputs[0], outputs[2])


def test_blocks_start_as_the_identity():
    model = tiny("swinv2_t_window8")
    x = torch.randn(1, 16, 8, 8)
    assert torch.equal(model.stages[0].blocks[0](x), x)


def test_layer_decay_groups_of_the_authors():
    """Patch merging learns like the last block before it, the last norm like the head."""
    model = timm.create_model("swinv2_t_window8", device="meta")
    group = group_parameters(model, model.group_matcher(), reverse=True)
    for i, blocks in enumerate((2, 2, 6)):
        before = group[f"stages.{i}.blocks.{blocks - 1}.norm1.weight"]
        assert group[f"stages.{i + 1}.downsample.reduction.weight"] == before
        assert group[f"stages.{i + 1}.blocks.0.norm1.weight"] == before + 1
    assert group["norm.weight"] == group["head.fc.weight"] == 13 and group["stem.conv1.weight"] == 0


def test_files_of_timm_load():
    state = timm.create_model("swinv2_base_window8_256", device="meta").state_dict()
    found = identify(state, "swinv2_b_window8.pth")
    assert (found[0].name, found[0].score) == ("swinv2_b_window8", 1.0)
    args = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 4, "img_size": 64}
    theirs = stir(timm.create_model("swinv2_tiny_window8_256", **args).eval(), std=0.1)
    ours = tiny("swinv2_t_window8", pretrained=True, pretrained_cfg_overlay={"state_dict": theirs.state_dict()})
    with torch.no_grad():
        torch.testing.assert_close(ours(image(64, 64)), theirs(image(64, 64)), rtol=1e-4, atol=1e-5)


def test_files_of_simmim_are_recognised():
    state = load(FIXTURES / "swinv2/simmim_swinv2_base-192.json.gz")["state_dict"]
    state = {key: torch.empty(shape, device="meta") for key, (_, shape, _) in state.items()}
    found = identify(state, "swinv2_base_1k_500k.pth")
    assert found[0].name == "swinv2_b_window12" and found[0].score > 0.99
    own = timm.create_model("swinv2_b_window12", num_classes=0, device="meta")
    assert set(family_of("swinv2_b_window12").convert_checkpoint(state, own)) == set(own.state_dict())


def test_simmim_learns_what_is_hidden():
    torch.manual_seed(0)
    model = SimMIM(tiny("swinv2_t_window8"), target_window=0).train()
    x, mask = image(64, 64), random_masks(2, 64, 64, ratio=0.5)
    assert mask.shape == (2, 16, 16) and mask.mean() == 0.5
    loss = model(x, mask)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    error = (model.reconstruct(x, mask) - x).abs().mean(1)
    hidden = mask.repeat_interleave(4, 1).repeat_interleave(4, 2) > 0
    torch.testing.assert_close(loss, error[hidden].mean(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # hidden pixels are not seen
        torch.testing.assert_close(model.encode(torch.where(hidden[:, None], 7.0, x), mask), model.encode(x, mask))


def test_targets_are_standardised_by_the_pixels_around():
    x = torch.randn(1, 2, 9, 7, dtype=torch.float64)
    found = standardised(x, 5)
    for row, column in ((0, 0), (4, 3), (8, 2)):
        around = x[0, 1, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
        expected = (x[0, 1, row, column] - around.mean()) / (around.var() + 1e-6).sqrt()
        torch.testing.assert_close(found[0, 1, row, column], expected)
