"""Squeeze and excitation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from backbones.ops.plain import plain


@plain(row_local=False)
class SqueezeExcite(nn.Module):
    """Gate every channel by a two-layer network of all channels' means (arXiv 1709.01507, section 3).

    Args:
        dim: Channels C.
        hidden_dim: Width of the hidden layer.
        act_layer: Activation of the hidden layer.
        gate_layer: Squashes the gates.
        bias: Of both layers.

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        act_layer: type[nn.Module] = nn.ReLU,
        gate_layer: type[nn.Module] = nn.Sigmoid,
        bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = nn.Conv2d(dim, hidden_dim, 1, bias=bias, **dd)
        self.act = act_layer()
        self.fc2 = nn.Conv2d(hidden_dim, dim, 1, bias=bias, **dd)
        self.gate = gate_layer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale_and_shift([x])[0]

    def scale_and_shift(self, chunks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, None]:
        """See `backbones.ops.fusion.ChannelGate`."""
        if len(chunks) == 1:
            means = chunks[0].mean((2, 3), keepdim=True)
        else:
            area = sum(chunk.shape[2] for chunk in chunks) * chunks[0].shape[3]
            means = sum(chunk.sum((2, 3), keepdim=True) for chunk in chunks) / area
        return self.gate(self.fc2(self.act(self.fc1(means)))), None
