"""What is special to TransXNet: position tables that a stage shares, and their image size."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from timm.layers import GroupNorm1

from backbones.features import DenseBackbone
from backbones.models import family_of

from .zoo import image, stir, tiny

NAME = "transxnet_t"


def _load(state: dict[str, torch.Tensor], **kwargs) -> torch.nn.Module:
    return tiny(NAME, seed=1, pretrained=True, pretrained_cfg_overlay={"state_dict": state}, **kwargs)


@torch.no_grad()
def test_a_model_takes_the_size_of_a_files_tables():
    model = stir(tiny(NAME, img_size=96))
    loaded = _load(model.state_dict(), img_size=None)
    assert loaded.stages[0].attn_bias.table.shape == (1, 1, 24 * 24, 9)
    for size in ((96, 96), (64, 128)):
        assert torch.equal(loaded(image(*size)), model(image(*size)))
    assert tiny(NAME, img_size=None).stages[0].attn_bias.table.shape == (1, 1, 56 * 56, 49)


@torch.no_grad()
def test_tables_are_resized_for_an_image_size_that_is_asked_for():
    model = stir(tiny(NAME))
    loaded = _load(model.state_dict(), img_size=(96, 128))
    table = loaded.stages[1].attn_bias.table
    assert table.shape == (1, 2, 12 * 16, 3 * 4)
    torch.testing.assert_close(
        table, F.interpolate(model.stages[1].attn_bias.table, size=table.shape[2:], mode="bicubic")
    )
    torch.testing.assert_close(loaded(image(96, 128)), model(image(96, 128)))


def test_tables_are_resized_once_a_stage_and_forward():
    model = tiny(NAME)
    calls = []
    for stage in model.stages:
        stage.attn_bias.register_forward_hook(lambda *args: calls.append(args[2]))
    seen = []
    for block in model.stages[2].blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    model(image(96, 96))
    assert len(calls) == 4
    assert len(seen) == 2 and all(bias is calls[2] for bias in seen)


def test_published_sizes():
    groups = {"transxnet_t": (2, 2, 2, 2), "transxnet_s": (2, 2, 3, 4), "transxnet_b": (2, 2, 4, 4)}
    widths = {"transxnet_t": (24, 24, 28, 28), "transxnet_s": (32, 32, 32, 32), "transxnet_b": (19, 19, 21, 21)}
    for name in groups:
        model = timm.create_model(name, device="meta")
        mixers = [stage.blocks[0].mixer for stage in model.stages]
        assert tuple(mixer.conv.num_groups for mixer in mixers) == groups[name]
        assert tuple(m.attn.q.in_features // m.attn.num_heads for m in mixers) == widths[name]


def test_norms_are_over_channels_and_positions():
    model = tiny(NAME)
    assert all(isinstance(m, GroupNorm1) for m in (model.norm, model.stages[0].blocks[0].norm1))
    dense = DenseBackbone(NAME, **family_of(NAME).tiny)
    assert [norm.num_groups for norm in dense.out_norms] == [1] * 4


def test_initial_values():
    model = tiny(NAME)
    for name, parameter in model.named_parameters():
        if ".conv.bias" in name and parameter.ndim == 2:  # the bank of biases
            assert 0.01 < parameter.std() < 0.03, name
        elif name.endswith(("table", "bias")):
            assert not parameter.any(), name
        elif ".ls" in name:
            assert (parameter == 1e-5).all(), name
    assert 0.01 < model.stages[0].blocks[0].mixer.conv.weight.std() < 0.03
    assert 0.01 < model.stem.conv.weight.std() < 0.03
