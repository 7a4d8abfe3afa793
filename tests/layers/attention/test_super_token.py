"""Super token attention against sums over positions and cells."""

from __future__ import annotations

import pytest
import torch

from backbones.layers.attention.super_token import SuperTokenAttention


def _attend(layer: SuperTokenAttention, tokens: torch.Tensor) -> torch.Tensor:
    """`(M, C)` to `(M, C)`, head by head."""
    q, k, v = layer.qkv(tokens).chunk(3, -1)
    heads = zip(*(x.chunk(layer.num_heads, -1) for x in (q, k, v)), strict=True)
    return layer.proj(torch.cat([(a @ b.T * a.shape[-1] ** -0.5).softmax(-1) @ c for a, b, c in heads], -1))


def _reference(layer: SuperTokenAttention, image: torch.Tensor) -> torch.Tensor:
    """One image `(H, W, C)`, position by position."""
    height, width, dim = image.shape
    (h, w) = layer.cell_size
    rows, columns = -(-height // h), -(-width // w)
    zero = image.new_zeros(dim)

    def pixel(i: int, j: int) -> torch.Tensor:
        return image[i, j] if i < height and j < width else zero

    def around(cell: tuple[int, int]) -> list[tuple[int, int]]:
        return [(cell[0] + dy, cell[1] + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]

    positions = [(i, j) for i in range(rows * h) for j in range(columns * w)]
    cells = [(a, b) for a in range(rows) for b in range(columns)]
    tokens = {(a, b): sum(pixel(a * h + i, b * w + j) for i in range(h) for j in range(w)) / (h * w) for a, b in cells}
    for _ in range(layer.num_iters):
        weights = {}
        for i, j in positions:
            near = torch.stack([tokens.get(cell, zero) for cell in around((i // h, j // w))])
            weights[i, j] = (near @ pixel(i, j) * dim**-0.5).softmax(0).detach()
        sums, totals = {cell: zero for cell in cells}, dict.fromkeys(cells, 0.0)
        for i, j in positions:
            for cell, weight in zip(around((i // h, j // w)), weights[i, j]):
                if cell in sums:
                    sums[cell] = sums[cell] + weight * pixel(i, j)
                    totals[cell] = totals[cell] + weight
        tokens = {cell: sums[cell] / totals[cell] for cell in cells}
    tokens = dict(zip(cells, _attend(layer, torch.stack(list(tokens.values()))), strict=True))
    out = [
        [
            sum(weight * tokens.get(cell, zero) for cell, weight in zip(around((i // h, j // w)), weights[i, j]))
            for j in range(width)
        ]
        for i in range(height)
    ]
    return torch.stack([torch.stack(row) for row in out])


@pytest.mark.parametrize(
    ("size", "cell", "iterations"), [((6, 8), 2, 1), ((5, 7), (3, 2), 2), ((4, 3), 4, 3), ((2, 9), (1, 4), 1)]
)
def test_layer_and_gradients_match_plain_sums(size, cell, iterations):
    torch.manual_seed(0)
    layer = SuperTokenAttention(8, 2, cell, iterations).double()
    x = torch.randn(2, *size, 8, dtype=torch.float64, requires_grad=True)
    results = []
    for out in (layer(x), torch.stack([_reference(layer, image) for image in x])):
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_one_exported_program_holds_for_all_sizes():
    torch.manual_seed(0)
    layer = SuperTokenAttention(8, 2, (3, 4), 2).eval()
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis in (0, 1, 2)}
    program = torch.export.export(layer, (torch.randn(2, 7, 10, 8),), dynamic_shapes=(dynamic,)).module()
    for batch, *size in ((2, 7, 10), (3, 9, 8), (2, 6, 9), (2, 5, 17)):
        x = torch.randn(batch, *size, 8)
        torch.testing.assert_close(program(x), layer(x), rtol=1e-5, atol=1e-6)


def test_a_super_token_without_positions_stays_finite():
    """In half precision all weight may lie on other super tokens."""
    layer = SuperTokenAttention(8, 2, 2).to(torch.bfloat16)
    x = torch.zeros(1, 2, 6, 8, dtype=torch.bfloat16)
    x[:, :, 0] = x[:, :, 2] = -100
    x[:, :, 1] = 90
    x[:, :, 3] = 110
    out = layer(x)
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


@pytest.mark.parametrize("args", [{"cell_size": 0}, {"cell_size": (2, 0)}, {"cell_size": 2, "num_iters": 0}])
def test_options_that_do_not_fit_are_named(args):
    with pytest.raises(ValueError, match="must be at least 1"):
        SuperTokenAttention(8, 2, **args)
