"""Varied-size windows against their definition, window by window, head by head, place by place."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.varied_window import CONVENTIONS, VariedSizeWindowAttention

P, Q, HEADS, DIM, IN_DIM = 3, 4, 2, 8, 12


def make(convention: str) -> VariedSizeWindowAttention:
    torch.manual_seed(0)
    module = VariedSizeWindowAttention(DIM, HEADS, (P, Q), IN_DIM, convention, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    return module


def _read(image: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`(C, H, W)` at one place in pixels, by the four pixels around it; zero outside."""
    total = image.new_zeros(image.shape[0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                total = total + (1 - (y - row).abs()) * (1 - (x - column).abs()) * image[:, row, column]
    return total


def _of_one(module: VariedSizeWindowAttention, x: torch.Tensor) -> torch.Tensor:
    """The definition in the authors' terms: on the padded map, in coordinates from -1 to 1."""
    height, width, _ = x.shape
    total = (-height % P, -width % Q)
    top, left = (n // 2 for n in total) if module.convention == "detector" else (0, 0)

    def pad(t: torch.Tensor) -> torch.Tensor:
        return F.pad(t, (0, 0, left, total[1] - left, top, total[0] - top))

    rows, columns = height + total[0], width + total[1]
    by_y, by_x = max(height // P, 1), max(width // Q, 1)
    if module.convention == "detector":
        by_y, by_x = by_x, by_y
    elif module.convention == "swin":
        by_y, by_x = rows // P, columns // Q
    q, k, v = (pad(t) for t in (module.q(x), *module.kv(x).chunk(2, -1)))
    padded, out = pad(x), x.new_zeros(rows, columns, DIM)
    bias = module.rel_pos(P, Q)
    for r in range(0, rows, P):
        for c in range(0, columns, Q):
            mean = padded[r : r + P, c : c + Q].mean((0, 1))
            chosen = module.place(F.leaky_relu(mean)).view(HEADS, 4)
            for h, (ox, oy, sx, sy) in enumerate(chosen):
                part = slice(h * DIM // HEADS, (h + 1) * DIM // HEADS)
                keys, values = [], []
                for i in range(P):
                    for j in range(Q):
                        y = (2 * r + P - 1) / (rows - 1) - 1 + (2 * i - P + 1) / (rows - 1) * (1 + sy) + oy / by_y
                        x_ = (
                            (2 * c + Q - 1) / (columns - 1) - 1 + (2 * j - Q + 1) / (columns - 1) * (1 + sx) + ox / by_x
                        )
                        at = ((y + 1) / 2 * (rows - 1), (x_ + 1) / 2 * (columns - 1))
                        keys.append(_read(k[..., part].permute(2, 0, 1), *at))
                        values.append(_read(v[..., part].permute(2, 0, 1), *at))
                queries = q[r : r + P, c : c + Q, part].flatten(0, 1)
                logits = queries @ torch.stack(keys).T / (IN_DIM // HEADS) ** 0.5 + bias[h]
                attended = logits.softmax(-1) @ torch.stack(values)
                out[r : r + P, c : c + Q, part] = attended.view(P, Q, -1)
    return module.proj(out[top : top + height, left : left + width])


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("size", [(6, 8), (7, 6), (2, 9)])
def test_value_and_gradients(convention, size):
    module = make(convention)
    x = torch.randn(2, *size, IN_DIM, dtype=torch.float64, requires_grad=True)
    inputs = (x, *module.parameters())
    expected, got = torch.stack([_of_one(module, one) for one in x]), module(x)
    torch.testing.assert_close(got, expected)
    weight = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, inputs, weight), torch.autograd.grad(expected, inputs, weight)):
        torch.testing.assert_close(a, b)
    with torch.inference_mode():  # another backend on CPU
        torch.testing.assert_close(module(x), expected.detach())


def test_exported_for_other_sizes():
    module = make("detector").eval()
    dynamic = {dim: torch.export.Dim.DYNAMIC for dim in (0, 1, 2)}
    example = torch.randn(2, 7, 9, IN_DIM, dtype=torch.float64)
    program = torch.export.export(module, (example,), dynamic_shapes=(dynamic,)).module()
    for shape in ((2, 6, 8), (3, 13, 11), (2, 3, 4), (2, 2, 5)):
        x = torch.randn(*shape, IN_DIM, dtype=torch.float64)
        torch.testing.assert_close(program(x), module(x))


def test_half_precision_keeps_its_places():
    """On a wide map bfloat16 has no fractions of pixels: they are computed in single precision."""
    module = make("swin").float()
    x = torch.randn(1, 6, 600, IN_DIM)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    error = (out.float() - expected).abs().mean() / expected.std()
    assert error < 0.05


def test_without_distance_and_growth_windows_are_plain():
    """Then they are those of `WindowAttention`, except that padding has zero keys."""
    from backbones.layers.attention.window import WindowAttention

    module = VariedSizeWindowAttention(DIM, HEADS, (P, Q), dtype=torch.float64)
    torch.nn.init.zeros_(module.place.weight)
    torch.nn.init.zeros_(module.place.bias)
    plain = WindowAttention(DIM, HEADS, (P, Q), dtype=torch.float64)
    state = module.state_dict()
    for kind in ("weight", "bias"):
        state[f"qkv.{kind}"] = torch.cat((state.pop(f"q.{kind}"), state.pop(f"kv.{kind}")))
        del state[f"place.{kind}"]
    plain.load_state_dict(state)
    x = torch.randn(2, 6, 8, DIM, dtype=torch.float64)
    torch.testing.assert_close(module(x), plain(x))


def test_unknown_conventions_and_heads_are_refused():
    with pytest.raises(ValueError, match="convention must be one of classifier, detector, swin, not 'other'"):
        VariedSizeWindowAttention(8, 2, convention="other")
    with pytest.raises(ValueError, match="dim 8 must be a multiple of num_heads 3"):
        VariedSizeWindowAttention(8, 3)
