"""What is special to SpectFormer: where filters are, the auxiliary head, and weights for images of another size."""

from __future__ import annotations

import pytest
import torch

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.spectral import SpectralGating
from tests.models.zoo import full_size, image, stir, tiny


@pytest.mark.parametrize(
    "size, dims, depths, filters",
    [
        ("s", (64, 128, 320, 448), (3, 4, 6, 3), [(56, 29)] * 3 + [(28, 15)] * 4),
        ("b", (64, 128, 320, 512), (3, 4, 12, 3), [(56, 29)] * 3 + [(28, 15)] * 4),
        ("l", (96, 192, 384, 512), (3, 6, 18, 3), [(56, 29)] * 3 + [(28, 15)] * 6),
    ],
)
def test_hierarchical_models(size, dims, depths, filters):
    model = full_size(f"spectformer_h_{size}")
    assert tuple(info["num_chs"] for info in model.feature_info) == dims
    assert tuple(len(stage.blocks) for stage in model.stages) == depths
    assert [tuple(m.complex_weight.shape[:2]) for m in model.modules() if isinstance(m, SpectralGating)] == filters
    attention = [m for stage in model.stages[2:] for m in stage.modules() if isinstance(m, GlobalAttention2d)]
    assert [m.num_heads for m in attention] == [dims[2] // 32] * depths[2] + [dims[3] // 32] * depths[3]


@pytest.mark.parametrize("size, heads", [("t", 4), ("xs", 6), ("s", 6), ("b", 8)])
def test_vanilla_models(size, heads):
    blocks = full_size(f"spectformer_{size}").blocks
    assert [isinstance(block.attn, SpectralGating) for block in blocks] == [i < 4 for i in range(len(blocks))]
    assert {block.attn.num_heads for block in blocks[4:]} == {heads}


def _aux(**kwargs):
    return stir(tiny("spectformer_h_s", aux_head=True, num_classes=5, **kwargs))


def test_auxiliary_head():
    model, x = _aux(), image(64, 96)
    with torch.no_grad():
        features = model.forward_features(x)
        tokens = model.head.norm(features.flatten(2).transpose(1, 2))
        aux = model.head.aux.fc(tokens).max(1).values
        logits = model.head.fc(model.forward_head(features, pre_logits=True))
        torch.testing.assert_close(model(x), logits + 0.5 * aux)
    model.train()
    logits, aux_logits = model(x)
    assert logits.shape == aux_logits.shape == (2, 5)
    (logits.sum() + aux_logits.square().sum()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    model.reset_classifier(7)
    assert model.head.aux.fc.out_features == 7
    model.reset_classifier(0)
    assert model.head.aux is None and model.eval()(x).shape == (2, 64)


def test_weights_with_and_without_auxiliary_head():
    state = {"state_dict": _aux().state_dict(), "num_classes": 5}
    for args in ({"aux_head": True}, {}):
        model = tiny("spectformer_h_s", pretrained=True, pretrained_cfg_overlay=dict(state), num_classes=5, **args)
        assert (model.head.aux is not None) == bool(args)
    other = tiny("spectformer_h_s", pretrained=True, pretrained_cfg_overlay=dict(state), num_classes=3, aux_head=True)
    assert other.head.aux.fc.out_features == 3


@pytest.mark.parametrize("name", ["spectformer_h_s", "spectformer_t"])
def test_weights_of_another_size_are_those_that_the_model_uses_there(name):
    source = stir(tiny(name))
    overlay = {"state_dict": source.state_dict()}
    loaded = tiny(name, img_size=96, pretrained=True, pretrained_cfg_overlay=dict(overlay))
    shapes = [
        {k: v.shape for k, v in m.state_dict().items() if k.endswith(("complex_weight", "table"))}
        for m in (source, loaded)
    ]
    assert shapes[0] != shapes[1]
    with torch.no_grad():
        expected = source(image(96, 96))
        torch.testing.assert_close(loaded(image(96, 96)), expected)
        source.set_input_size(96)
        torch.testing.assert_close(source(image(96, 96)), expected)


def test_class_token_is_not_made_by_concatenation():
    with pytest.raises(ValueError, match="makes no class token"):
        tiny("spectformer_h_s", global_pool="catavgmax")
