"""Large-kernel attention against sums written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from backbones.layers.conv.large_kernel import GatedLargeKernelAttention, LargeKernelAttention


def _depthwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, step: int) -> torch.Tensor:
    """Sum of the shifted maps, tap by tap; zeros outside."""
    side = weight.shape[-1]
    reach = step * (side // 2)
    padded = F.pad(x, (reach,) * 4)
    height, width = x.shape[2:]
    out = bias.view(1, -1, 1, 1).expand_as(x)
    for i in range(side):
        for j in range(side):
            part = padded[:, :, i * step : i * step + height, j * step : j * step + width]
            out = out + weight[:, 0, i, j].view(1, -1, 1, 1) * part
    return out


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bchw,dc->bdhw", x, weight[:, :, 0, 0]) + bias.view(1, -1, 1, 1)


def _attention(x: torch.Tensor, p: dict[str, torch.Tensor], prefix: str = "") -> torch.Tensor:
    near = _depthwise(x, p[f"{prefix}near.weight"], p[f"{prefix}near.bias"], 1)
    far = _depthwise(near, p[f"{prefix}far.weight"], p[f"{prefix}far.bias"], 3)
    return x * _pointwise(far, p[f"{prefix}mix.weight"], p[f"{prefix}mix.bias"])


def _gated(x: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
    y = F.gelu(_pointwise(x, p["proj1.weight"], p["proj1.bias"]))
    return x + _pointwise(_attention(y, p, "attn."), p["proj2.weight"], p["proj2.bias"])


def _check(layer: torch.nn.Module, reference) -> None:
    x = torch.randn(2, 4, 9, 12, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())
    inputs = (x, *parameters.values())
    out, expected = layer(x), reference(x, parameters)
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    for a, b in zip(
        torch.autograd.grad((out * weights).sum(), inputs), torch.autograd.grad((expected * weights).sum(), inputs)
    ):
        torch.testing.assert_close(a, b)


def test_attention():
    torch.manual_seed(0)
    _check(LargeKernelAttention(4, dtype=torch.float64), _attention)


def test_gated_attention():
    torch.manual_seed(0)
    _check(GatedLargeKernelAttention(4, dtype=torch.float64), _gated)


def test_reach():
    """One pixel reaches a window of 23 x 23: 5 of the first kernel and 18 more of the second."""
    torch.manual_seed(0)
    layer = LargeKernelAttention(1)
    x = torch.ones(1, 1, 31, 31)
    other = x.clone()
    other[0, 0, 15, 15] = 2
    with torch.no_grad():
        changed = (layer(other) != layer(x))[0, 0].nonzero()
    assert changed.min(0).values.tolist() == [4, 4] and changed.max(0).values.tolist() == [26, 26]
