"""Attention of blocks to windows with a halo, against its definition, one query at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.halo import HaloAttention


def _by_definition(layer: HaloAttention, x: torch.Tensor) -> torch.Tensor:
    heads, c, b, h = layer.num_heads, layer.head_dim, layer.block_size, layer.halo_size
    height, width, step, w = *x.shape[1:3], layer.query_stride, layer.block_size + 2 * layer.halo_size
    q = layer.q(x[0]).view(height, width, heads, c)
    kv = layer.kv(x[0]).view(height, width, heads, -1)
    rows = []
    for y in range(0, height, step):
        row = []
        for z in range(0, width, step):
            top, left = y // b * b - h, z // b * b - h
            logits, values = [], []
            for j in range(w):
                for i in range(w):
                    inside = 0 <= top + j < height and 0 <= left + i < width
                    pair = kv[top + j, left + i] if inside else torch.zeros_like(kv[0, 0])
                    dy, dx = j - y % b // step + w - 1, i - z % b // step + w - 1
                    content = (q[y, z] * pair[:, :c]).sum(-1) * c**-0.5
                    positions = layer.pos_embed.height_rel[dy] + layer.pos_embed.width_rel[dx]
                    positions = q[y, z] @ positions
                    logits.append(content + positions * (c**-0.5 if layer.scale_positions else 1))
                    values.append(pair[:, c:])
            row.append(torch.einsum("nh,nhd->hd", torch.stack(logits).softmax(0), torch.stack(values)).flatten())
        rows.append(torch.stack(row))
    out = torch.stack(rows)[None]
    if isinstance(layer.pool, torch.nn.Identity):
        return out
    return F.avg_pool2d(out.permute(0, 3, 1, 2), 2, ceil_mode=True, count_include_pad=False).permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"stride": 2, "avg_down": True, "scale_positions": True},
        {"stride": 2, "block_size": 3, "qkv_bias": True},
        {"block_size": 2, "halo_size": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(8, 4), (5, 7), (1, 2)])
def test_definition(options, size):
    torch.manual_seed(0)
    layer = HaloAttention(6, 8, 2, 3, **{"block_size": 4, "halo_size": 1, **options}).double()
    x = torch.randn(1, *size, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), _by_definition(layer, x))


@pytest.mark.parametrize("args, text", [((6, 8, 3, 4), "dim_out 8 must be"), ((6, 8, 2, 4, 8, 3, 3), "stride must be")])
def test_refused(args, text):
    with pytest.raises(ValueError, match=text):
        HaloAttention(*args)
