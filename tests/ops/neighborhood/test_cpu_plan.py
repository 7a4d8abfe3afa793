"""How neighborhood attention on CPU cuts an axis, and that results do not depend on the cut."""

from __future__ import annotations

import pytest
import torch

from backbones.ops.neighborhood import cpu_plan, neighborhood_attention, neighborhood_av
from backbones.ops.neighborhood.cpu_plan import Span, spans, split
from backbones.ops.neighborhood.geometry import window_index


def _tiles(span: Span) -> list[tuple[list[int], list[int], tuple[int, ...]]]:
    """(queries, keys, window starts in the block) of every tile, as positions of the axis."""

    def positions(group: int, first: int, count: int) -> list[int]:
        return [group + span.dilation * p for p in range(first, first + count)]

    return [
        (
            positions(group, span.query + t * span.query_step, span.tile),
            positions(group, span.key + t * span.key_step, span.block),
            span.offsets,
        )
        for group in range(span.group, span.group + span.groups)
        for t in range(span.tiles)
    ]


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (7, 1), (13, 1), (5, 2), (7, 3), (7, 7)])
def test_tiles_hold_every_query_once_and_its_window(kernel: int, stride: int, dilation: int) -> None:
    for size in [*range(kernel * dilation, kernel * dilation + 24), 56, 75, 152]:
        window, _ = window_index(size, kernel, dilation, stride, torch.device("cpu"))
        whole = spans(size, kernel, dilation, stride)
        for limit in (1, 2, size):
            seen = []
            for piece in (piece for span in whole for piece in span.pieces(limit)):
                for queries, keys, offsets in _tiles(piece):
                    for query, start in zip(queries, offsets, strict=True):
                        assert keys[start : start + kernel] == window[query].tolist(), (size, query)
                    seen += queries
            assert sorted(seen) == list(range(size)), (size, limit)


@pytest.mark.parametrize("kernel", [3, 5, 7, 13])
def test_segments_hold_every_window(kernel: int) -> None:
    for size in (kernel, kernel + 1, 2 * kernel, 28, 57, 100):
        for span in spans(size, kernel, 1):
            seen = []
            for queries, first, slope in span.segments():
                for i, u in enumerate(range(queries.start, queries.stop)):
                    assert span.offsets[u] == first + i * slope
                    seen.append(u)
            assert seen == list(range(span.tile))


@pytest.mark.parametrize(("size", "kernel"), [(56, 7), (28, 5), (28, 7), (28, 13), (152, 5)])
def test_even_axes_are_two_runs_of_straight_windows(size: int, kernel: int) -> None:
    """Launches bound small maps: both borders are one run, and the windows of each run are copied at once."""
    assert len(split(size, kernel)) == 2
    inner, border = spans(size, kernel, 1)
    assert border.tiles == 2 and border.dense
    assert len(inner.segments()) == len(border.segments()) == 1


@pytest.mark.parametrize("chunk", [1, 2000, 20000])
@pytest.mark.parametrize(("kernel", "dilation", "height", "width"), [(5, 1, 21, 18), (3, 2, 20, 23), (7, 1, 12, 8)])
def test_results_do_not_depend_on_chunks(monkeypatch, chunk: int, kernel: int, dilation, height, width) -> None:
    rng = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, 3, height, width, 2, 4, generator=rng, dtype=torch.float64).requires_grad_()
    bias = torch.randn(2, 2 * kernel - 1, 2 * kernel - 1, generator=rng, dtype=torch.float64).requires_grad_()
    attn = torch.randn(3, 2, height, width, kernel**2, generator=rng, dtype=torch.float64).requires_grad_()
    grad = torch.randn(qkv.shape[1:], generator=rng, dtype=torch.float64)
    monkeypatch.setattr(cpu_plan, "CHUNK", chunk)

    def results(backend: str) -> list[torch.Tensor]:
        out = neighborhood_attention(*qkv, kernel, dilation, bias, backend=backend)
        product = neighborhood_av(attn, qkv[2].permute(0, 3, 1, 2, 4), kernel, dilation, backend=backend)
        product = product.permute(0, 2, 3, 1, 4)
        return [
            out,
            product,
            *torch.autograd.grad(out, [qkv, bias], grad),
            *torch.autograd.grad(product, [attn, qkv], grad),
        ]

    torch.testing.assert_close(results("cpu"), results("reference"), rtol=1e-9, atol=1e-10)
