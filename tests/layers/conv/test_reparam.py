"""The large-kernel convolution in its training form and its merged form."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.utils.model import reparameterize_model
from torch import nn

from backbones.layers.conv.reparam import BRANCHES, DilatedReparamConv, merge_state_dict


def stirred(dim: int, kernel_size: int, dtype: torch.dtype = torch.float32) -> DilatedReparamConv:
    """In evaluation mode, with BatchNorm statistics and weights as after training."""
    torch.manual_seed(0)
    module = DilatedReparamConv(dim, kernel_size, dtype=dtype).eval()
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.5)
                norm.running_var.uniform_(0.5, 2)
                norm.weight.uniform_(0.5, 2)
                norm.bias.normal_(0, 0.5)
    return module


def test_training_form_is_the_sum_of_its_branches():
    module = stirred(6, 7)
    x = torch.randn(2, 6, 9, 12)

    def normed(y, norm):
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    expected = normed(F.conv2d(x, module.conv.weight, padding=3, groups=6), module.norm)
    for (k, d), branch in zip(((5, 1), (3, 1), (3, 2), (3, 3)), module.branches.values(), strict=True):
        assert branch.conv.weight.shape == (6, 1, k, k)
        y = F.conv2d(x, branch.conv.weight, padding=d * (k - 1) // 2, dilation=d, groups=6)
        expected = expected + normed(y, branch.norm)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("kernel_size", BRANCHES)
def test_merging_keeps_the_function(kernel_size):
    module = stirred(4, kernel_size)
    x = torch.randn(2, 4, 11, 14)  # smaller than the largest kernels
    expected = module(x)
    state = merge_state_dict(module.state_dict())
    module.reparameterize()
    module.reparameterize()  # a second time does nothing
    assert [n for n, _ in module.named_parameters()] == ["conv.weight", "conv.bias"] and not list(module.buffers())
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)

    merged = DilatedReparamConv(4, kernel_size, merged=True)
    merged.load_state_dict(state)
    assert torch.equal(merged(x), module(x))


def test_merged_bias_reaches_every_position_and_taps_stay_in_place():
    module = stirred(1, 5, torch.float64)
    impulse = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    impulse[..., 7, 7] = 1
    expected = module(impulse)
    module.reparameterize()
    torch.testing.assert_close(module(impulse), expected)
    torch.testing.assert_close(
        module(impulse)[0, 0, 5:10, 5:10] - module.conv.bias, module.conv.weight[0, 0].flip(0, 1)
    )


def test_merging_a_state_dict_leaves_other_keys():
    modules = nn.Sequential(stirred(2, 5), nn.BatchNorm2d(2), nn.Sequential(stirred(2, 7)))
    state = merge_state_dict(modules.state_dict())
    own = [f"1.{key}" for key in modules[1].state_dict()]
    assert sorted(state) == sorted(["0.conv.weight", "0.conv.bias", "2.0.conv.weight", "2.0.conv.bias", *own])


def test_timm_merges_every_block_of_a_model():
    model = nn.Sequential(stirred(3, 5), nn.Sequential(stirred(3, 9, torch.float32))).eval()
    x = torch.randn(1, 3, 12, 12)
    merged = reparameterize_model(model)
    assert all(m.merged for m in merged.modules() if isinstance(m, DilatedReparamConv))
    assert not model[0].merged
    torch.testing.assert_close(merged(x), model(x), rtol=1e-5, atol=1e-4)


def test_statistics_of_every_branch_learn():
    module = stirred(3, 7).train()
    module(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
    assert {int(m.num_batches_tracked) for m in module.modules() if isinstance(m, nn.BatchNorm2d)} == {1}


def test_dtype_trainability_and_frozen_batch_norm_survive():
    module = stirred(2, 5, torch.bfloat16).requires_grad_(False)
    module.reparameterize()
    assert module.conv.weight.dtype == module.conv.bias.dtype == torch.bfloat16
    assert not module.conv.weight.requires_grad and not module.conv.bias.requires_grad

    frozen = timm.layers.freeze_batch_norm_2d(stirred(2, 5))
    x = torch.randn(1, 2, 6, 6)
    expected = frozen(x)
    frozen.reparameterize()
    torch.testing.assert_close(frozen(x), expected, rtol=1e-5, atol=1e-5)


def test_unknown_kernel_size():
    with pytest.raises(ValueError, match=r"kernel_size must be one of 5, 7, .* not 21"):
        DilatedReparamConv(4, 21)
