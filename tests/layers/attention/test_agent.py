"""Agent attention against its definition, head by head and agent by agent."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.agent import AgentAttention

DIM, HEADS, P = 12, 3, 2


def make(map_size, **args):
    torch.manual_seed(0)
    layer = AgentAttention(DIM, HEADS, map_size, agent_size=P, dtype=torch.float64, **args)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return layer


def at(table: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """A table `(..., h, w)` between its entries, those at its border repeated."""
    h, w = table.shape[-2:]
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    top, left = int(y), int(x)
    below, right, dy, dx = min(top + 1, h - 1), min(left + 1, w - 1), y - top, x - left
    upper = (1 - dx) * table[..., top, left] + dx * table[..., top, right]
    return (1 - dy) * upper + dy * ((1 - dx) * table[..., below, left] + dx * table[..., below, right])


def resized(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Half-pixel centres."""
    h, w = table.shape[-2:]
    places = [((y + 0.5) * h / rows - 0.5, (x + 0.5) * w / columns - 0.5) for y in range(rows) for x in range(columns)]
    return torch.stack([at(table, *place) for place in places], dim=-1).unflatten(-1, (rows, columns))


def definition(layer: AgentAttention, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    rows, columns = grid
    prefix = layer.num_prefix_tokens or 0
    q, k, v = F.linear(tokens, layer.qkv.weight, layer.qkv.bias).chunk(3, dim=-1)
    maps = q[:, prefix:].unflatten(1, grid)
    pools = layer.pool_size
    agents = []
    for i in range(pools[0]):
        for j in range(pools[1]):
            part = maps[:, i * rows // pools[0] : -(-(i + 1) * rows // pools[0])]
            part = part[:, :, j * columns // pools[1] : -(-(j + 1) * columns // pools[1])]
            agents.append(part.mean((1, 2)))
    agents = torch.stack(agents, dim=1)

    def bias(maps, lines, crossing, ahead):
        """`(heads, agents, prefix + positions)`."""
        sums = lines[..., :, None] + crossing[..., None, :]
        found = (resized(maps, rows, columns) + resized(sums, rows, columns)).flatten(2)
        if ahead is not None:
            found = torch.cat([ahead, found], dim=2)
        between = resized(found.transpose(1, 2).unflatten(2, (P, P)), *pools)
        return between.flatten(2).transpose(1, 2)

    first = bias(layer.an_bias, layer.ah_bias, layer.aw_bias, layer.ac_bias)
    second = bias(layer.na_bias, layer.ha_bias, layer.wa_bias, layer.ca_bias)
    d = DIM // HEADS
    out = []
    for head in range(HEADS):
        qh, kh, vh, ah = (t[..., head * d : (head + 1) * d] for t in (q, k, v, agents))
        values = (ah @ kh.mT * d**-0.5 + first[head]).softmax(-1) @ vh
        out.append((qh @ ah.mT * d**-0.5 + second[head].T).softmax(-1) @ values)
    out = torch.cat(out, dim=-1)
    values = v[:, prefix:].unflatten(1, grid).permute(0, 3, 1, 2)
    local = F.conv2d(values, layer.dwc.weight, layer.dwc.bias, padding=1, groups=DIM).flatten(2).mT
    out = torch.cat([out[:, :prefix], out[:, prefix:] + local], dim=1)
    return F.linear(out, layer.proj.weight, layer.proj.bias)


@pytest.mark.parametrize("grid", [(7, 7), (5, 6), (9, 4), (1, 1)])
@pytest.mark.parametrize("args", [{}, {"pool_size": (3, 4)}, {"num_prefix_tokens": 1}, {"num_prefix_tokens": 0}])
def test_definition(grid, args):
    """Of maps that the biases are stored for (5 x 6), smaller and larger ones."""
    layer = make((5, 6), **args)
    prefix = args.get("num_prefix_tokens", 0)
    tokens = torch.randn(2, prefix + grid[0] * grid[1], DIM, dtype=torch.float64)
    if "num_prefix_tokens" in args:
        found = layer(tokens, grid)
    else:
        found = layer(tokens.unflatten(1, grid)).flatten(1, 2)
    torch.testing.assert_close(found, definition(layer, tokens, grid))


def test_another_map_size_is_what_is_interpolated_otherwise():
    """Storing the vectors for the maps at hand changes nothing."""
    layer, x = make((4, 6)), torch.randn(1, 7, 5, DIM, dtype=torch.float64)
    before = layer(x)
    layer.set_map_size((7, 5))
    assert layer.ah_bias.shape == (HEADS, P * P, 7) and layer.wa_bias.shape == (HEADS, P * P, 5)
    torch.testing.assert_close(layer(x), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_activations_in_half_precision(dtype):
    layer, x = make((8, 8)).float(), 10 * torch.randn(1, 32, 32, DIM)
    with torch.autocast("cpu", dtype):
        y = layer(x)
        y.float().square().mean().backward()
    assert y.isfinite().all() and all(p.grad.isfinite().all() for p in layer.parameters())
    error = (y.float() - layer(x)).std() / layer(x).std()
    assert error < (0.05 if dtype == torch.bfloat16 else 0.01)


def test_bad_sizes():
    with pytest.raises(ValueError, match="dim 12 must be a multiple of num_heads 5"):
        AgentAttention(12, 5, 7)
    with pytest.raises(ValueError, match="agent_size 0 and pool_size None must be at least 1"):
        AgentAttention(12, 3, 7, agent_size=0)
