"""Shifted windows against their definition, window by window on a rolled map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.window import CosineWindowAttention, ShiftedWindowAttention

P, Q, SHIFT, HEADS, DIM = 3, 4, (1, 2), 2, 8


def _windows(module, x: torch.Tensor) -> torch.Tensor:
    """Every window of the rolled map by itself; positions that are no neighbours in the map get -100."""
    height, width = x.shape[1:3]
    place = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)[None]
    back = (-SHIFT[0], -SHIFT[1])
    x, place = x.roll(back, (1, 2)), place.roll(back, (1, 2))
    bias, out = module.rel_pos(P, Q), torch.zeros_like(x)
    inside = torch.stack(torch.meshgrid(torch.arange(P), torch.arange(Q), indexing="ij"), -1).reshape(-1, 2)
    for row in range(0, height, P):
        for column in range(0, width, Q):
            cut = (slice(None), slice(row, row + P), slice(column, column + Q))
            tokens, at = x[cut].flatten(1, 2), place[cut].reshape(-1, 2)
            apart = ((at[:, None] - at) != (inside[:, None] - inside)).any(-1)
            q, k, v = F.linear(tokens, module.qkv.weight, module.qkv.bias).unflatten(-1, (3, HEADS, -1)).unbind(2)
            if isinstance(module, CosineWindowAttention):
                q = F.normalize(q + module.q_bias.view(HEADS, -1), dim=-1) * module.logit_scale.exp().view(HEADS, 1)
                k, v = F.normalize(k, dim=-1), v + module.v_bias.view(HEADS, -1)
            else:
                q = q / (DIM // HEADS) ** 0.5
            logits = torch.einsum("bqhc,bkhc->bhqk", q, k) + bias - 100.0 * apart
            attended = torch.einsum("bhqk,bkhc->bqhc", logits.softmax(-1), v).flatten(2)
            out[cut] = module.proj(attended).view(-1, P, Q, DIM)
    return out.roll(SHIFT, (1, 2))


@pytest.mark.parametrize("kind", [ShiftedWindowAttention, CosineWindowAttention])
@pytest.mark.parametrize("size", [(6, 8), (3, 12), (9, 4)])
def test_values(kind, size):
    torch.manual_seed(0)
    module = kind(DIM, HEADS, (P, Q), shift=SHIFT, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(2, *size, DIM, dtype=torch.float64)
    torch.testing.assert_close(module(x), _windows(module, x))


def test_a_shift_as_large_as_the_window_is_refused():
    with pytest.raises(ValueError, match=r"shift \(4, 4\) must be at least 0 and less than the window \(4, 4\)"):
        ShiftedWindowAttention(DIM, HEADS, 4, shift=4)
