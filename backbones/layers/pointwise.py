"""Linear layers, GELU and the MLP of both, fast on channels-last maps on CPU too."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.ops.chunks import chunkable
from backbones.ops.fusion import fused
from backbones.ops.onednn import gelu_tanh, linear
from backbones.ops.plain import plain


@plain()
@register_notrace_module
class Linear(nn.Linear):
    """`nn.Linear` whose fast cases are a channels-last map `(B, H, W, C)`, and tokens `(B, N, C)` or `(B, G, N, C)`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)

    def forward_with(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str | None = None
    ) -> torch.Tensor:
        """See `backbones.ops.fusion.Product`."""
        return linear(x, weight, bias, act)


@plain()
@register_notrace_module
class GELUTanh(nn.GELU):
    """GELU in its tanh form, of any tensor; its fast case is a map."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return gelu_tanh(x)


@register_notrace_module
class Mlp(nn.Module):
    """Linear, GELU, linear: `(..., C)` to `(..., C)`.

    Args:
        dim: Channels C.
        hidden_dim: Width of the hidden layer.
        act_layer: Activation of the hidden layer.
    """

    def __init__(
        self, dim: int, hidden_dim: int, act_layer: type[nn.Module] = nn.GELU, device=None, dtype=None
    ) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim, device=device, dtype=dtype)
        self.act = act_layer()
        self.fc2 = Linear(hidden_dim, dim, device=device, dtype=dtype)

    @chunkable(axis=1)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(fused(self.fc1, self.act)(x))
