"""Squeeze and excitation."""

from __future__ import annotations

import torch
from torch import nn


class SqueezeExcite(nn.Module):
    """Gate every channel by a two-layer network of all channels' means (arXiv 1709.01507, section 3).

    Args:
        dim: Channels C.
        hidden_dim: Width of the hidden layer.
        act_layer: Activation of the hidden layer.
        gate_layer: Squashes the gates.

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        act_layer: type[nn.Module] = nn.ReLU,
        gate_layer: type[nn.Module] = nn.Sigmoid,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = nn.Conv2d(dim, hidden_dim, 1, **dd)
        self.act = act_layer()
        self.fc2 = nn.Conv2d(hidden_dim, dim, 1, **dd)
        self.gate = gate_layer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gates(x.mean((2, 3), keepdim=True))

    def gates(self, means: torch.Tensor) -> torch.Tensor:
        """The gates of the channels with these means, both `(B, C, 1, 1)`."""
        return self.gate(self.fc2(self.act(self.fc1(means))))
