"""ContMix against its definition, tap by tap."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.layers.conv.contmix import ContMix, ContMixBlock, fit_size
from backbones.layers.conv.reparam import DilatedReparamConv

HEADS, DIM, CONTEXT, SMALL, LARGE = 2, 8, 3, 3, 5


def make(value_proj: bool = False, **kwargs) -> ContMix:
    torch.manual_seed(0)
    args = {"bias_std": 0.5, "grid_size": 2, "dtype": torch.float64, **kwargs}
    module = ContMix(DIM, CONTEXT, HEADS, LARGE, SMALL, value_proj=value_proj, **args)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return module.eval()


def maps(height: int, width: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return tuple(torch.randn(2, c, height, width, dtype=torch.float64) for c in (DIM, CONTEXT, DIM))


def reference(module: ContMix, query: torch.Tensor, context: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The definition: affinities first, then the map to taps, then a loop over positions."""
    b, _, height, width = query.shape
    width_of_head = DIM // (2 * HEADS)
    q = module.query(query) * (DIM // HEADS) ** -0.5
    k = module.key(F.adaptive_avg_pool2d(context, module.grid_size))
    q = q.reshape(b, HEADS, width_of_head, height, width)
    k = k.reshape(b, HEADS, width_of_head, -1)
    affinity = torch.einsum("bgchw,bgcl->bghwl", q, k)
    logits = F.linear(affinity, module.kernel_proj.weight, module.kernel_proj.bias)
    small, large = logits.split([SMALL**2, LARGE**2], dim=-1)
    value = module.value(value).reshape(b, 2, HEADS, width_of_head, height, width)
    out = torch.zeros_like(value)
    for half, size, logits, table in ((0, SMALL, small, module.rpb1), (1, LARGE, large, module.rpb2)):
        for i in range(height):
            for j in range(width):
                top = min(max(i - size // 2, 0), height - size)
                left = min(max(j - size // 2, 0), width - size)
                row, col = top - i + size - 1, left - j + size - 1
                bias = table[:, row : row + size, col : col + size].flatten(1)
                kernel = (logits[:, :, i, j] + bias).softmax(-1)
                window = value[:, half, :, :, top : top + size, left : left + size].flatten(3)
                out[:, half, :, :, i, j] = torch.einsum("bgt,bgct->bgc", kernel, window)
    return out.reshape(b, DIM, height, width)


@pytest.mark.parametrize("value_proj", [False, True])
@pytest.mark.parametrize("size", [(5, 5), (6, 9), (13, 7)])
def test_matches_the_definition(size, value_proj):
    module, inputs = make(value_proj), maps(*size)
    torch.testing.assert_close(module(*inputs), reference(module, *inputs))
    channels_last = [m.contiguous(memory_format=torch.channels_last) for m in inputs]
    out = module(*channels_last)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, reference(module, *inputs))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (9, 3)])
def test_small_maps_are_resized_and_pooled_back(size):
    module, inputs = make(True), maps(*size)
    large = [F.interpolate(m, size=fit_size(*size, LARGE), mode="bilinear") for m in inputs]
    torch.testing.assert_close(module(*inputs), F.adaptive_avg_pool2d(reference(module, *large), size))


def test_fit_size_is_the_published_rounding():
    assert fit_size(13, 40, 13) == (13, 40)
    assert fit_size(11, 15, 13) == (13, 17)
    assert fit_size(10, 8, 13) == (16, 13)
    assert fit_size(5, 4, 7) == (8, 7)
    assert fit_size(1, 1, 7) == (7, 7)
    assert fit_size(40, 3, 7) == (int(7 / 3 * 40), 7)
    for kernel in range(3, 21, 2):  # 15 / 11 * 11 is below 15 in floating point
        assert all(min(fit_size(side, side, kernel)) == kernel for side in range(1, kernel))


def test_context_and_value_default_to_the_query():
    torch.manual_seed(0)
    module = ContMix(DIM, None, HEADS, LARGE, SMALL, dtype=torch.float64).eval()
    x = maps(7, 6)[0]
    assert torch.equal(module(x), module(x, x, x))


def test_gradients_are_those_of_the_definition():
    module, inputs = make(), [m.requires_grad_() for m in maps(5, 6)]
    weight = torch.randn(2, DIM, 5, 6, dtype=torch.float64)
    leaves = [*inputs, *module.parameters()]
    got = torch.autograd.grad((module(*inputs) * weight).sum(), leaves)
    expected = torch.autograd.grad((reference(module, *inputs) * weight).sum(), leaves)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.abs().max() > 0
    assert torch.autograd.gradcheck(module, [m[:1] for m in inputs], fast_mode=True)


def test_autocast_stays_finite_with_large_affinities():
    module = make(dtype=torch.float32)
    inputs = [100 * m.float() for m in maps(6, 6)]
    with torch.autocast("cpu", torch.bfloat16):
        out = module(*inputs)
    assert out.isfinite().all()
    value = inputs[2]
    assert out.abs().max() <= 1.01 * value.abs().max()  # a convex mixture


def test_widths_and_kernels_must_fit():
    with pytest.raises(ValueError, match="dim 10 must be a multiple of 2 \\* num_heads = 8"):
        ContMix(10, num_heads=4)
    with pytest.raises(ValueError, match="not 5 and 6"):
        ContMix(16, num_heads=2, kernel_size=6)
    with pytest.raises(ValueError, match="not 9 and 7"):
        ContMix(16, num_heads=2, kernel_size=7, small_kernel_size=9)


@pytest.mark.parametrize("res_scale", [False, True])
def test_block_scales_shortcut_or_branch(res_scale):
    torch.manual_seed(0)
    block = ContMixBlock(16, 5, 3, num_heads=2, res_scale=res_scale, layer_scale=0.0).eval()
    x = torch.randn(1, 16, 6, 8)
    if res_scale:  # shortcuts are cut
        mixed = block.dwconv2(block.mixer(block.norm1(block.dwconv1(x))))
        expected = block.mlp(block.norm2(mixed))
    else:  # branches are cut
        expected = block.dwconv2(block.dwconv1(x))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("size", [(8, 11), (4, 3)])
def test_block_trains_and_merges(size):
    torch.manual_seed(0)
    block = ContMixBlock(16, 7, num_heads=2, res_scale=True, layer_scale=1.0, drop_path=0.1).train()
    assert 0.015 < block.mixer.mix.rpb2.std() < 0.025
    x = torch.randn(4, 16, *size)
    block(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    block.eval()
    expected = block(x)
    for module in block.modules():
        if isinstance(module, DilatedReparamConv):
            module.reparameterize()
    assert not any(isinstance(m, nn.ModuleDict) for m in block.modules())
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
