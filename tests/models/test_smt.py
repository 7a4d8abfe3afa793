"""What is special to SMT: where it modulates and where it attends."""

import pytest
import torch

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.conv.modulation import ScaleAwareModulation
from backbones.models.smt import SMT
from tests.models.zoo import full_size, tiny


def test_mixers():
    for name in ("smt_t", "smt_l"):
        stages = full_size(name).stages
        kinds = [[type(block.attn) for block in stage.blocks] for stage in stages]
        assert set(kinds[0]) == set(kinds[1]) == {ScaleAwareModulation}
        assert set(kinds[3]) == {GlobalAttention2d}
        assert set(kinds[2][::2]) == {ScaleAwareModulation} and set(kinds[2][1::2]) == {GlobalAttention2d}


def test_layer_scale_is_the_large_models():
    assert not [key for key in full_size("smt_b").state_dict() if ".ls1." in key]
    assert len([key for key in full_size("smt_l").state_dict() if ".ls1." in key]) == 42


def test_unknown_mixers_are_named():
    with pytest.raises(ValueError, match=r'mixers must be strings of "m" and "a", one a stage, not'):
        SMT(mixers=("m", "x", "a", "a"), device="meta")
    with pytest.raises(ValueError, match="one a stage"):
        SMT(mixers=("m", "", "a", "a"), device="meta")
    with pytest.raises(ValueError, match="dim 66 must be a multiple of the number of kernels 4"):
        SMT(dims=(66, 132, 264, 528), device="meta")


def test_convolutions_start_with_the_variance_of_their_outputs():
    model = tiny("smt_t").requires_grad_(False)
    assert float(model.stages[2].downsample.proj.weight.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    depthwise = torch.cat([block.mlp.dwconv.weight for stage in model.stages for block in stage.blocks])
    assert float(depthwise.std()) == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert not model.stem.conv2.bias.any()
