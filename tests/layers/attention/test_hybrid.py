"""Close and remote attention against sums over the positions of every window and grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.hybrid import HybridWindowAttention


def _reference(layer: HybridWindowAttention, x: torch.Tensor) -> torch.Tensor:
    batch, height, width, dim = x.shape
    p, q = layer.window_size
    x = F.pad(x, (0, 0, 0, -width % q, 0, -height % p))
    rows, columns = x.shape[1] // p, x.shape[2] // q
    query, key = F.linear(x, layer.qk.weight, layer.qk.bias).chunk(2, -1)
    value = F.gelu(F.linear(x, layer.v.weight, layer.v.bias))
    out = torch.zeros_like(value)
    for remote in (True, False) if layer.close else (True,):
        for row in range(rows):
            for column in range(columns):
                ys = [u * rows + row if remote else row * p + u for u in range(p)]
                xs = [v * columns + column if remote else column * q + v for v in range(q)]
                at = (slice(None), torch.tensor(ys)[:, None], torch.tensor(xs)[None])
                tokens = (t[at].flatten(1, 2).unflatten(-1, (layer.num_heads, -1)) for t in (query, key, value))
                k_q, k_k, k_v = (t.transpose(1, 2) for t in tokens)
                mixed = (k_q @ k_k.mT * (dim // layer.num_heads) ** -0.5).softmax(-1) @ k_v
                out = out.index_put(
                    (torch.arange(batch)[:, None, None], at[1][None], at[2][None]),
                    mixed.transpose(1, 2).flatten(2).unflatten(1, (p, q)),
                    accumulate=True,
                )
    return out[:, :height, :width]


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("size", [(8, 12), (7, 10), (4, 4), (3, 3), (4, 9)])
def test_layer_and_gradients_match_plain_sums(size, close):
    torch.manual_seed(0)
    layer = HybridWindowAttention(8, 24, 2, window_size=4, close=close).double()
    x = torch.randn(2, *size, 8, dtype=torch.float64, requires_grad=True)
    results = []
    for out in (layer(x), _reference(layer, x)):
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("close", [True, False])
def test_one_exported_program_holds_for_all_sizes(close):
    torch.manual_seed(0)
    layer = HybridWindowAttention(8, 16, 2, window_size=(3, 4), close=close).eval()
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis in (0, 1, 2)}
    program = torch.export.export(layer, (torch.randn(2, 7, 10, 8),), dynamic_shapes=(dynamic,)).module()
    for batch, *size in ((2, 7, 10), (3, 9, 8), (2, 3, 4), (2, 5, 17)):
        x = torch.randn(batch, *size, 8)
        torch.testing.assert_close(program(x), layer(x), rtol=1e-5, atol=1e-6)


def test_heads_must_divide_both_widths():
    for dims in ((9, 12), (8, 9)):
        with pytest.raises(ValueError, match="must be multiples of num_heads 2"):
            HybridWindowAttention(*dims, num_heads=2)
