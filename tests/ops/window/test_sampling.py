"""The ways to read windows between pixels agree, and say what they do not take."""

from __future__ import annotations

import pytest
import torch

from backbones.ops._dispatch import explain
from backbones.ops.window import sample_windows


def _inputs(dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A map of 5 x 6, and places inside and outside of it, on pixels and between them."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6, 2, 3, 4, dtype=dtype)
    rows = torch.randint(-3, 15, (2, 7, 3, 2)).to(dtype) / 2
    columns = 8 * torch.rand(2, 7, 3, 3).to(dtype) - 1
    return x, rows, columns


def test_backends_agree():
    inputs = _inputs()
    outputs = [sample_windows(*inputs, backend=backend) for backend in ("grid_sample", "bags")]
    assert outputs[0].shape == (2, 2, 7, 6, 3, 4)
    torch.testing.assert_close(outputs[0], outputs[1])


def test_pixels_are_read_where_they_are():
    x = torch.arange(12.0).view(1, 3, 4, 1, 1, 1)
    rows, columns = torch.tensor([[[[0.0, 2.0, 2.5]]]]), torch.tensor([[[[0.0, 3.0]]]])
    for backend in ("grid_sample", "bags"):
        out = sample_windows(x, rows, columns, backend=backend)
        torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 3.0, 8.0, 11.0, 4.0, 5.5]))


def test_rows_of_memory_are_read_in_inference():
    x, rows, columns = _inputs()
    with explain() as decisions:
        sample_windows(x, rows, columns)
        sample_windows(x, rows.requires_grad_(), columns)
    assert [decision.backend for decision in decisions] == ["bags", "grid_sample"]
    assert decisions[1].reasons == {"bags": ["has a slow gradient"]}


def test_half_precision_comes_back():
    x, rows, columns = _inputs(torch.float32)
    out = sample_windows(x.bfloat16(), rows, columns)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), sample_windows(x, rows, columns), rtol=0.02, atol=0.02)


def test_shapes_that_do_not_fit_are_refused():
    x, rows, columns = _inputs()
    with pytest.raises(ValueError, match=r"x must be \(B, H, W, S, heads, c\)"):
        sample_windows(x[:, :, :, 0], rows, columns)
    with pytest.raises(ValueError, match="backend must be one of auto, bags, grid_sample, got 'other'"):
        sample_windows(x, rows, columns, backend="other")
