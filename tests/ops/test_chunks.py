"""Chunks of images and rows."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.ops import chunks
from backbones.ops.chunks import chunkable, in_chunks, row_chunks
from backbones.ops.plain import Extent


def widening(factor: int) -> nn.Module:
    """Says only that there is a hidden map `factor` times as wide as an input of four channels."""
    return nn.Linear(4, 4 * factor).eval()


@pytest.mark.parametrize(
    ("values", "training", "grad", "sizes"),
    [(64, False, False, [2, 2, 1]), (1, False, False, [1] * 5), (160, False, False, [5]), (64, True, False, [5]),
     (64, False, True, [5])],
)  # fmt: skip
def test_chunks_of_images(monkeypatch: pytest.MonkeyPatch, values: int, training: bool, grad: bool, sizes: list[int]):
    monkeypatch.setattr(chunks, "CHUNK", values)
    module, seen = widening(2).train(training), []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return torch.cat((x, x), dim=1)

    x = torch.randn(5, 4, 1, 4)  # with a hidden map of 32 values an image
    with torch.set_grad_enabled(grad):
        out = in_chunks(function, x, lambda: (module,), axis=2)
    assert seen == sizes
    assert torch.equal(out, torch.cat((x, x), dim=1))


@pytest.mark.parametrize(("halo", "rows"), [(math.inf, [11]), (0, [3, 3, 3, 2]), (1, [5, 6, 4])])
def test_chunks_of_rows(monkeypatch: pytest.MonkeyPatch, halo: float, rows: list[int]):
    monkeypatch.setattr(chunks, "CHUNK", 24)  # three rows of the hidden map
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[1])
        near = F.avg_pool1d(x.transpose(1, 2), 3, 1, 1) if halo == 1 else x.transpose(1, 2)
        return near.transpose(1, 2)

    x = torch.randn(1, 11, 4)
    with torch.no_grad():
        out = torch.cat(row_chunks(function, (x,), Extent(8, halo), axis=1), dim=1)
    assert seen == rows
    torch.testing.assert_close(out, function(x))


@pytest.mark.parametrize(("height", "count"), [(24, 2), (23, 1)])
@pytest.mark.parametrize("before", [1, 0])
@pytest.mark.parametrize("halo", [3, 4])
def test_chunks_of_strided_rows(monkeypatch: pytest.MonkeyPatch, height: int, count: int, before: int, halo: int):
    """Padded at the top and below, or below only; sides that the stride does not divide are done whole."""
    monkeypatch.setattr(chunks, "CHUNK", 1)
    kernel = torch.randn(3, 2, 3, 3)

    def function(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, (1, 1, before, 1)), kernel, stride=2)

    x = torch.randn(1, 2, height, 6)
    with torch.no_grad():
        out = row_chunks(function, (x,), Extent(2, halo, 2), axis=2)
        assert len(out) == count
        torch.testing.assert_close(torch.cat(out, dim=2), function(x))


@pytest.mark.parametrize("batch", [1, 3])
def test_chunks_of_two_arguments(monkeypatch: pytest.MonkeyPatch, batch: int):
    monkeypatch.setattr(chunks, "CHUNK", 24)
    module, seen = widening(2), []

    def function(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[1])
        return x * mask[:, :, None]

    x, mask = torch.randn(batch, 11, 4), torch.rand(batch, 11) > 0.5
    with torch.no_grad():
        out = in_chunks(function, x, lambda: (module,), axis=1, beside=mask)
    assert seen == [3, 3, 3, 2] * batch
    assert torch.equal(out, x * mask[:, :, None])


class Hidden(nn.Module):
    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(4, 16, 1)
        self.dwconv = nn.Conv2d(16, 16, kernel_size, padding=kernel_size // 2, groups=16)
        self.heights: list[int] = []

    @chunkable(axis=2)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.heights.append(x.shape[2])
        return self.dwconv(self.fc1(x))


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_the_halo_is_that_of_the_convolutions_there_are(monkeypatch: pytest.MonkeyPatch, kernel_size: int):
    module, x = Hidden(3).eval(), torch.randn(1, 4, 40, 5)
    module.dwconv = Hidden(kernel_size).dwconv.eval()
    with torch.no_grad():
        expected = module(x)
        monkeypatch.setattr(chunks, "CHUNK", 1)
        torch.testing.assert_close(module(x), expected)
    assert len(module.heights) > 2
    module.heights.clear()
    handle = module.dwconv.register_forward_hook(lambda *args: None)
    with torch.no_grad():
        module(x)
        assert module.heights == [40]
        handle.remove()
        module.heights.clear()
        module(x)
    assert len(module.heights) > 1
