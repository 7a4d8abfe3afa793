"""Normalisation and per-channel scaling of `(B, C, H, W)` maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale, LayerScale2d
from torch import nn

from backbones.ops.plain import plain, register

register(DropPath, LayerScale, LayerScale2d)


@plain()
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of every position of a `(B, C, H, W)` map.

    Works on the channels-last view, which costs no copy on `channels_last` maps.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5, device=None, dtype=None) -> None:
        super().__init__(num_channels, eps=eps, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


@plain(row_local=False)
class GlobalResponseNorm(nn.Module):
    """Global response normalisation with its residual (ConvNeXt V2, arXiv 2301.00808, section 3).

    `y = x * (gamma * N + 1) + beta`, where `N` is the L2 norm of each channel over H, W over its mean over channels.
    """

    def __init__(self, dim: int, eps: float = 1e-6, device=None, dtype=None) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.empty(1, dim, 1, 1, device=device, dtype=dtype))
        self.beta = nn.Parameter(torch.empty(1, dim, 1, 1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gamma)
        nn.init.zeros_(self.beta)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift = self.scale_and_shift([x])
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))

    def scale_and_shift(self, chunks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """See `backbones.ops.fusion.ChannelGate`."""
        norms = [torch.linalg.vector_norm(chunk, dim=(2, 3), keepdim=True) for chunk in chunks]
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return self.gamma * (norm / (norm.mean(dim=1, keepdim=True) + self.eps)) + 1, self.beta


class DecayedLayerScale2d(LayerScale2d):
    """Layer scale of `(B, C, H, W)` maps whose factors `(1, C, 1, 1)` are no vector, so that optimisers decay them."""

    def __init__(self, dim: int, init_values: float, device=None, dtype=None) -> None:
        super().__init__(dim, init_values, device=device, dtype=dtype)
        self.gamma = nn.Parameter(self.gamma.detach().view(1, -1, 1, 1))


class ChannelAffine(nn.Module):
    """Layer scale with a bias on `(B, C, H, W)` maps: `y = weight[c] * x + bias[c]`; `weight` is `(C, 1, 1, 1)`."""

    def __init__(self, dim: int, init_value: float = 1.0, device=None, dtype=None) -> None:
        super().__init__()
        self.init_value = init_value
        self.weight = nn.Parameter(torch.empty(dim, 1, 1, 1, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.init_value)
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.bias.view(1, -1, 1, 1), x, self.weight.view(1, -1, 1, 1))
