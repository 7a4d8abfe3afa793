"""What is special about SOFT: the class token of the last stage, dropout, position tables."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from backbones.models import family_of, list_models
from tests.models.zoo import full_size, image, stir, tiny


@pytest.mark.parametrize("name", list_models("soft_*"))
def test_ratios_kernels_and_inverses(name):
    found = [[block.attn for block in stage.blocks] for stage in full_size(name).stages[:3]]
    assert [{attn.ratio for attn in stage} for stage in found] == [{8}, {4}, {2}]
    assert [{attn.local_conv.kernel_size for attn in stage} for stage in found] == [{(9, 9)}, {(5, 5)}, {(3, 3)}]
    inverses = {attn.inverse for stage in found for attn in stage}
    assert inverses == {"normalized" if "norm" in name else "ridge"}


def test_class_token_is_what_is_classified():
    model = stir(tiny("soft_t", num_classes=3))
    x = image(64, 96)
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        assert final.shape == (2, 1 + 2 * 3, 64) and maps[3].shape == (2, 64, 2, 3)
        torch.testing.assert_close(model(x), model.head.fc(final[:, 0]))
        model.reset_classifier(3, "avg")
        torch.testing.assert_close(model(x), model.head.fc(final[:, 1:].mean(1)))


def test_without_the_last_stage_features_are_maps():
    model = stir(tiny("soft_norm_t"))
    model.prune_intermediate_layers([2])
    assert model.num_prefix_tokens == 0
    with torch.no_grad():
        features = model.forward_features(image())
        assert features.shape == (2, 32, 4, 4)
        model.reset_classifier(3, "avg")
        torch.testing.assert_close(model(image()), model.head.fc(features.mean((2, 3))))


def test_values_are_dropped_before_the_last_stage_and_branches_in_it():
    model = tiny("soft_t", drop_path_rate=0.4)
    values = [m.p for stage in model.stages[:3] for m in stage.modules() if isinstance(m, nn.Dropout)]
    branches = [m.drop_prob for m in model.stages[3].modules() if isinstance(m, DropPath)]
    assert values == pytest.approx([0.0, 0.0, 0.4 / 3, 0.4 / 3, 0.8 / 3, 0.8 / 3]) and branches == pytest.approx(
        [0.4, 0.4]
    )


def test_linears_of_soft_plus_plus_start_as_those_of_torch():
    for name, standard in (("soft_t", True), ("soft_norm_t", False)):
        model = tiny(name, dims=(64, 64, 64, 64), num_heads=(2, 2, 2, 2))
        found = [block.attn.proj.weight.std().item() for stage in model.stages[:3] for block in stage.blocks]
        found += [block.mlp.fc1.bias.std().item() + 0.02 for stage in model.stages[:3] for block in stage.blocks]
        assert all((value == pytest.approx(0.02, rel=0.1)) == standard for value in found)
        assert model.stages[3].blocks[0].attn.proj.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_tables_of_another_size_are_resized_as_the_model_does():
    small, large = stir(tiny("soft_t", num_classes=3)), tiny("soft_t", seed=1, num_classes=3, img_size=(96, 128))
    large.load_state_dict(family_of("soft_t").convert_checkpoint(small.state_dict(), large))
    assert [large.stem.pos_embed.grid_size, large.stages[3].pos_embed.grid_size] == [(24, 32), (3, 4)]
    with torch.no_grad():
        torch.testing.assert_close(large(image(96, 128)), small(image(96, 128)))


def test_weights_of_2021_have_an_inverse_of_their_own():
    """It differs little, as the authors' notes say; an unknown one is refused."""
    with torch.no_grad():
        ridge, plain = (
            stir(tiny("soft_t", inverse=inverse)).forward_features(image()) for inverse in ("ridge", "plain")
        )
    assert 0 < (ridge - plain).std() < 0.1 * ridge.std()
    with pytest.raises(ValueError, match="inverse must be one of"):
        tiny("soft_t", inverse="none")
