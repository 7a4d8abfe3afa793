"""What is special about InLine attention's models: which blocks have it, and what their files hold."""

from __future__ import annotations

import pytest
import timm
import torch

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.attention.inline import InLineAttention
from backbones.layers.attention.stripe import CrossShapedAttention
from backbones.layers.attention.window import ShiftedWindowAttention
from backbones.models import family_of

from .zoo import full_size, image, on_meta, stir, tiny


@pytest.mark.parametrize(
    "name, inline, window",
    [
        ("inline_swin_t", (2, 2, 6, 0), 7),
        ("inline_swin_s", (2, 2, 0, 0), 7),
        ("inline_swin_b", (2, 2, 2, 0), 7),
        ("inline_swin_b.in1k_384", (2, 2, 2, 0), 12),
    ],
)
def test_blocks_of_swin(name, inline, window):
    """The others have windows, of which those of odd blocks are shifted, but not on maps of one window."""
    for i, stage in enumerate(on_meta(name).stages):
        for j, block in enumerate(stage.blocks):
            if j < inline[i]:
                assert type(block.attn) is InLineAttention and block.attn.lepe is None
            else:
                assert isinstance(block.attn, ShiftedWindowAttention)
                assert block.attn.window_size == (window, window)
                assert block.attn.shift == ((window // 2,) * 2 if j % 2 and i < 3 else (0, 0))


@pytest.mark.parametrize("name, width", [("inline_cswin_t", 7), ("inline_cswin_b.in1k_384", 12)])
def test_blocks_of_cswin(name, width):
    stages = [[block.attn for block in stage.blocks] for stage in on_meta(name).stages]
    for attention in stages[0] + stages[1]:
        assert type(attention) is InLineAttention and attention.takes_shortcut and attention.lepe is not None
    assert all(type(a) is CrossShapedAttention and a.stripe_width == width for a in stages[2])
    assert all(type(a) is GlobalAttention2d and a.lepe.kernel_size == (3, 3) for a in stages[3])


@pytest.mark.parametrize("name", ["inline_deit_t", "inline_pvt_t"])
def test_all_blocks_of_deit_and_pvt(name):
    attention = [m for key, m in full_size(name).named_modules() if key.endswith(".attn")]
    assert attention and all(isinstance(a, InLineAttention) for a in attention)
    assert {a.qkv.in_features // a.num_heads for a in attention} == {32}


def test_files_of_pvt_hold_queries_beside_keys_and_values_and_positions_of_their_images():
    model = stir(tiny("inline_pvt_t"))
    file, other = {}, tiny("inline_pvt_t", img_size=(96, 64))
    for key, value in model.state_dict().items():
        if ".attn.qkv." in key:
            file[key.replace(".qkv.", ".q.")], file[key.replace(".qkv.", ".kv.")] = value.split(
                [len(value) // 3, 2 * len(value) // 3]
            )
        else:
            file[key] = value
    for built in (model, other):
        loaded = family_of("inline_pvt_t").convert_checkpoint(file, built)
        built.load_state_dict(loaded)
    with torch.no_grad():
        torch.testing.assert_close(other(image(96, 64)), model(image(96, 64)))


def test_files_of_swin_hold_tables_of_their_windows():
    model = on_meta("inline_swin_b.in1k_384")
    flat = {"layers.2.blocks.2.attn.relative_position_bias_table": torch.randn(169, 16)}
    (table,) = family_of("inline_swin_b").convert_checkpoint(flat, model).values()
    assert table.shape == (16, 23, 23)
    same = family_of("inline_swin_b").convert_checkpoint(flat, full_size("inline_swin_b"))
    assert same["stages.2.blocks.2.attn.rel_pos.relative_position_bias_table"][3, 0, 1] == flat.popitem()[1][-2, 3]


@pytest.mark.parametrize("name", ["inline_deit_t", "inline_pvt_t", "inline_swin_t", "inline_cswin_t"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name, dtype):
    """Tenfold images: logits and gradients are finite, and those of float32 but for rounding."""
    model = stir(tiny(name, num_classes=5), std=0.05)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype, enabled=enabled):
            logits = model(10 * image(128, 96))
        model.zero_grad()
        logits.float().square().mean().backward()
        results.append((logits.detach().float(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    for want, got in zip(*results, strict=True):
        assert got.isfinite().all()
        assert (got - want).norm() < 20 * torch.finfo(dtype).eps * want.norm()


def test_any_mixer_takes_its_place():
    model = timm.create_model("inline_pvt_t", **{**family_of("inline_pvt_t").tiny, "mixer": "neighborhood"})
    assert not any(isinstance(m, InLineAttention) for m in model.modules())
