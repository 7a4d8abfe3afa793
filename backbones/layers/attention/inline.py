"""InLine attention: linear attention that tells queries apart, and a local term."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.conv.dynamic import PredictedDepthwiseConv
from backbones.layers.pointwise import Linear

FEATURE_MAPS = {
    "identity": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "exp": lambda x: (0.2 * x).exp(),
}


@register_notrace_module
class InLineAttention(nn.Module):
    """Injective linear attention with a local residual (InLine; Han et al., NeurIPS 2024, arXiv 2412.06590, section 4).

    The weight of key j for query i is `1 / N + s / N * q_i @ (k_j - mean(k))` with `s = d^-1/2`: linear attention that
    is normalised by a subtraction, so that no two queries get the same weights. They add up to 1, and may be negative.
    To the heads' output comes a depthwise 3x3 convolution of the values, whose kernels are made of the mean position.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        qkv_bias: Bias of the input projection.
        feature_map: Function of queries and keys: "identity", as in all published models, "relu", "leaky_relu", "exp".
        lepe: Add a depthwise 3x3 convolution of the values with fixed kernels too, as in InLine-CSwin.
        kernels_from: What the kernels are made of: "input", or "shortcut", the block's input before its norm, as in
            InLine-CSwin.

    Maps `(B, H, W, C)` to the same shape, any H and W; called with the shortcut too, of that shape, where it is read.

    Raises:
        ValueError: Heads that do not divide the channels, or options that do not exist.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        feature_map: str = "identity",
        lepe: bool = False,
        kernels_from: str = "input",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        if feature_map not in FEATURE_MAPS:
            raise ValueError(f"feature_map must be one of {', '.join(FEATURE_MAPS)}, not {feature_map!r}")
        if kernels_from not in ("input", "shortcut"):
            raise ValueError(f'kernels_from must be "input" or "shortcut", not {kernels_from!r}')
        self.num_heads = num_heads
        self.feature_map = feature_map
        self.takes_shortcut = kernels_from == "shortcut"
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.local = PredictedDepthwiseConv(dim, num_heads, **dd)
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd) if lepe else None
        self.proj = Linear(dim, dim, **dd)

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        out = self.mix(*(t.flatten(1, 2) for t in (q, k, v))).view(x.shape)
        return self.proj(out + self.around(v, (x if shortcut is None else shortcut).mean(dim=(1, 2))))

    def mix(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The global part: queries, keys and values `(B, N, C)` to `(B, N, C)`."""
        phi = FEATURE_MAPS[self.feature_map]
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (phi(q), phi(k), v))
        # Half of the division by N on either side of the sum over N keeps half precision in its range.
        count = k.shape[2] ** 0.5
        k = (k - k.mean(dim=2, keepdim=True)) * (k.shape[3] ** -0.5 / count)
        out = v.mean(dim=2, keepdim=True) + q @ (k.mT @ (v / count))
        return out.transpose(1, 2).flatten(2)

    def around(self, v: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """The local part: values `(B, H, W, C)` and a vector of the image `(B, C)` to `(B, H, W, C)`."""
        v = v.permute(0, 3, 1, 2)
        out = self.local(v, mean)
        if self.lepe is not None:
            out = out + self.lepe(v)
        return out.permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, feature_map={self.feature_map!r}"


@register_notrace_module
class TokenInLineAttention(InLineAttention):
    """InLine attention of tokens, of which some stand in front of the map's.

    These take part in the global part and in the mean position, and have no neighbours.

    Args:
        dim, num_heads, qkv_bias, feature_map, lepe: As in `InLineAttention`.
        num_prefix_tokens: P.

    Maps `(B, P + H * W, C)` and the grid `(H, W)` to `(B, P + H * W, C)`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        feature_map: str = "identity",
        lepe: bool = False,
        num_prefix_tokens: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, feature_map, lepe, device=device, dtype=dtype)
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        around = self.around(v[:, self.num_prefix_tokens :].unflatten(1, grid), x.mean(dim=1))
        around = F.pad(around.flatten(1, 2), (0, 0, self.num_prefix_tokens, 0))
        return self.proj(self.mix(q, k, v) + around)
