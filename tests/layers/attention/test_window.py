"""Window and grid attention against their definition, written out as full attention with a mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.layers.attention.relpos import resize_bias_table
from backbones.layers.attention.window import GridAttention, WindowAttention

# (height, width, window): divisible, with padding below, right, both, a map inside one window, a one-pixel map
CASES = [
    (6, 8, (3, 4)),
    (7, 8, (3, 4)),
    (6, 9, (3, 4)),
    (10, 7, (3, 3)),
    (2, 3, (4, 5)),
    (1, 1, (2, 2)),
    (8, 3, (7, 2)),
]
KINDS = (WindowAttention, GridAttention)


def make(kind, window, dim=8, heads=2, **kwargs):
    torch.manual_seed(0)
    module = kind(dim, heads, window, dtype=torch.float64, **kwargs)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return module


def reference(module: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """All pairs of positions; those of different groups masked. Group and place in it are computed pixel by pixel."""
    b, height, width, c = x.shape
    p, q = module.window_size
    place = []
    for row in range(height):
        for column in range(width):
            if isinstance(module, GridAttention):
                rows, columns = -(-height // p), -(-width // q)
                place.append(((row % rows, column % columns), (row // rows, column // columns)))
            else:
                place.append(((row // p, column // q), (row % p, column % q)))
    qkv = F.linear(x.reshape(b, height * width, c), module.qkv.weight, module.qkv.bias)
    heads = module.num_heads
    queries, keys, values = qkv.reshape(b, height * width, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    scores = queries @ keys.transpose(-2, -1) / (c // heads) ** 0.5
    rows = []
    for i, (group, (u, v)) in enumerate(place):
        entries = []
        for j, (other, (s, t)) in enumerate(place):
            if other != group:
                entries.append(torch.full_like(scores[:, :, i, j], -torch.inf))
            elif module.rel_pos is None:
                entries.append(scores[:, :, i, j])
            else:
                table = module.rel_pos.relative_position_bias_table
                entries.append(scores[:, :, i, j] + table[:, s - u + p - 1, t - v + q - 1])
        rows.append(torch.stack(entries, -1))
    out = torch.stack(rows, -2).softmax(-1) @ values
    out = out.transpose(1, 2).reshape(b, height, width, c)
    return F.linear(out, module.proj.weight, module.proj.bias)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height, width, window", CASES)
def test_value_and_gradients(kind, height, width, window):
    module = make(kind, window)
    x = torch.randn(2, height, width, 8, dtype=torch.float64, requires_grad=True)
    inputs = (x, *module.parameters())
    expected, got = reference(module, x), module(x)
    torch.testing.assert_close(got, expected)
    weight = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, inputs, weight), torch.autograd.grad(expected, inputs, weight)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height, width, window", CASES)
def test_float32_with_and_without_gradients(kind, height, width, window):
    """The fused kernels of inference, and the plain steps of training."""
    module = make(kind, window)
    x = torch.randn(2, height, width, 8)
    with torch.no_grad():
        expected = reference(module, x.double()).float()
    module.float()
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height, width", [(6, 8), (7, 9)])
def test_without_position_bias(kind, height, width):
    module = make(kind, (3, 4), qkv_bias=False, rel_pos_bias=False)
    assert {name for name, _ in module.named_parameters()} == {"qkv.weight", "proj.weight", "proj.bias"}
    x = torch.randn(2, height, width, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x), reference(module, x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height, width", [(6, 8), (7, 9)])
def test_exported_for_other_sizes(kind, height, width):
    module = make(kind, (3, 4)).eval()
    dynamic = {dim: torch.export.Dim.DYNAMIC for dim in (1, 2)}
    example = torch.randn(2, height, width, 8, dtype=torch.float64)
    program = torch.export.export(module, (example,), dynamic_shapes=(dynamic,)).module()
    for shape in ((2, 12, 12), (2, 13, 11), (2, 3, 4), (2, 2, 5)):
        x = torch.randn(*shape, 8, dtype=torch.float64)
        torch.testing.assert_close(program(x), module(x))


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_for_sizes_with_and_without_padding(kind):
    module = make(kind, (3, 4))
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for height, width in ((6, 8), (7, 9), (8, 8)):
        x = torch.randn(2, height, width, 8, dtype=torch.float64)
        out = compiled(x)
        torch.testing.assert_close(out, module(x))
        out.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
def test_bfloat16(kind, size):
    module = make(kind, (3, 4)).float()
    x = torch.randn(2, *size, 8)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.1)
    out.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    out = module.to(torch.bfloat16)(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.1)


def test_set_window_size_resizes_and_keeps_frozen():
    module = make(GridAttention, 4)
    table = module.rel_pos.relative_position_bias_table.detach().clone()
    module.requires_grad_(False)
    module.set_window_size((6, 3))
    assert module.window_size == (6, 3)
    assert not any(p.requires_grad for p in module.parameters())
    assert torch.equal(module.rel_pos.relative_position_bias_table, resize_bias_table(table, (6, 3)))
    x = torch.randn(1, 12, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x), reference(module, x))


def test_heads_must_divide():
    with pytest.raises(ValueError, match="multiple of num_heads"):
        WindowAttention(10, 3)


def test_linear_layers_are_torch_linear_layers():
    assert isinstance(WindowAttention(8, 2).qkv, nn.Linear)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height, width, window", CASES)
def test_padding_that_is_not_masked_is_attended_to_like_zeros_of_the_map(kind, height, width, window):
    module, masked = make(kind, window, mask_padding=False), make(kind, window)
    x = torch.randn(2, height, width, 8, dtype=torch.float64)
    padded = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    torch.testing.assert_close(module(x), masked(padded)[:, :height, :width])
