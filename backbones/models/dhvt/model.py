"""DHVT: dynamic hybrid vision transformer (Lu et al., NeurIPS 2022, arXiv 2210.05958).

- A plain vision transformer for small data sets, with a convolutional stem in place of patches and positions (SOPE).
- Attention has one more token for each head, made of the head's mean channels: heads interact through them (HI-MHSA).
- The feed-forward is a convolution on the map of patches; the class token is weighted by the map's mean (DAFF).

Differences from the paper: its costs are those of the corrected version; the number of heads depends on the data set.
The authors' patch grids are square; here an image may have any size.
"""

from __future__ import annotations

import torch
from timm.layers import calculate_drop_path_rates, register_notrace_module
from torch import nn

from backbones.layers.attention.global_attention import TokenAttention
from backbones.layers.block import TokenBlock
from backbones.layers.conv.basic import ConvNorm
from backbones.layers.head import TokenHead
from backbones.layers.tokens import ClassToken
from backbones.models.isotropic import IsotropicModel
from backbones.ops.fusion import fused


class Affine(nn.Module):
    """`alpha[c] * x + beta[c]` of `(B, C, H, W)`."""

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1, dim, 1, 1, device=device, dtype=dtype))
        self.beta = nn.Parameter(torch.empty(1, dim, 1, 1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.alpha)
        nn.init.zeros_(self.beta)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.alpha * x + self.beta


@register_notrace_module
class OverlappingStem(nn.Module):
    """Sequential overlapping patch embedding (section 3.1): an affine map before and after 3x3 stride-2 convolutions.

    The width doubles with every convolution; GELU stands between them, and after a single one.

    Args:
        in_chans: Image channels.
        dim: Channels C.
        patch_size: Stride of the result, a power of two.

    Maps `(B, in_chans, H, W)` to `(B, C, ceil(H / patch_size), ceil(W / patch_size))`.

    Raises:
        ValueError: A `patch_size` that is no power of two.
    """

    def __init__(self, in_chans: int, dim: int, patch_size: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        count = patch_size.bit_length() - 1
        if count < 1 or patch_size != 1 << count:
            raise ValueError(f"patch_size must be 2, 4, 8, ..., not {patch_size}")
        widths = [in_chans, *(dim >> i for i in reversed(range(count)))]
        self.pre_affine = Affine(in_chans, **dd)
        self.convs = nn.ModuleList(ConvNorm(widths[i], widths[i + 1], 3, stride=2, **dd) for i in range(count))
        self.act = nn.GELU()
        self.post_affine = Affine(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pre_affine(x)
        for i, conv in enumerate(self.convs):
            last = i == len(self.convs) - 1 > 0
            x = conv(x) if last else fused(conv.conv, conv.norm, self.act)(x)
        return self.post_affine(x)


@register_notrace_module
class HeadInteractedAttention(TokenAttention):
    """Attention with a token for every head (section 3.3).

    A head's token is made of the mean of its channels over all tokens. After the projection, the mean of the heads'
    tokens is added to the class token, and they are dropped.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.

    Maps `(B, 1 + N, C)`, the class token first, to the same shape.
    """

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, num_heads, **dd)
        self.ht_proj = nn.Linear(dim // num_heads, dim, **dd)
        self.ht_norm = nn.LayerNorm(dim // num_heads, **dd)
        self.act = nn.GELU()
        self.pos_embed = nn.Parameter(torch.empty(1, num_heads, dim, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def head_tokens(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, heads, C)`."""
        heads = x.mean(dim=1).unflatten(1, (self.num_heads, -1))
        heads = self.ht_proj(heads).unflatten(2, (self.num_heads, -1))
        return self.act(self.ht_norm(heads)).flatten(2) + self.pos_embed

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        x = super().forward(torch.cat([x, self.head_tokens(x).to(x.dtype)], dim=1))
        token, patches, heads = x[:, :1], x[:, 1 : -self.num_heads], x[:, -self.num_heads :]
        return torch.cat([token + heads.mean(dim=1, keepdim=True), patches], dim=1)


@register_notrace_module
class AggregationFeedForward(nn.Module):
    """Dynamic aggregation feed-forward (section 3.2).

    Patches: 1x1 convolution, 3x3 depthwise convolution with a shortcut, 1x1 convolution, each with BatchNorm. Class
    token: weighted by two linear layers of the patches' mean.

    Args:
        dim: Channels C.
        hidden_dim: Channels between the 1x1 convolutions.

    Maps tokens `(B, 1 + H * W, C)`, the class token first, and the grid `(H, W)` to the same shape.
    """

    def __init__(self, dim: int, hidden_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(dim, hidden_dim, 1, **dd)
        self.bn1 = nn.BatchNorm2d(hidden_dim, **dd)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim, **dd)
        self.bn2 = nn.BatchNorm2d(hidden_dim, **dd)
        self.conv3 = nn.Conv2d(hidden_dim, dim, 1, **dd)
        self.bn3 = nn.BatchNorm2d(dim, **dd)
        self.compress: nn.Module | None = nn.Linear(dim, dim // 4, **dd)
        self.excitation: nn.Module | None = nn.Linear(dim // 4, dim, **dd)

    def prune_prefix(self) -> None:
        """Remove what weights the class token; it is zero then."""
        self.compress = self.excitation = None

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        token, patches = x[:, :1], x[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)
        patches = fused(self.conv1, self.bn1, self.act)(patches)
        patches = fused(self.conv2, self.bn2, self.act)(patches) + patches
        patches = fused(self.conv3, self.bn3)(patches)
        if self.excitation is None:
            token = torch.zeros_like(token)
        else:
            token = token * self.excitation(self.act(self.compress(patches.mean(dim=(2, 3)))))[:, None]
        return torch.cat([token, patches.flatten(2).transpose(1, 2)], dim=1)


class DHVTBlock(TokenBlock):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))`; unlike in `TokenBlock`, both get the grid."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0, device=None, dtype=None
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        attention = HeadInteractedAttention(dim, num_heads, **dd)
        mlp = AggregationFeedForward(dim, int(dim * mlp_ratio), **dd)
        super().__init__(dim, attention, norm_eps=1e-6, drop_path=drop_path, mlp=mlp, **dd)

    def prune_prefix(self) -> None:
        """See `IsotropicModel.prune_intermediate_layers`."""
        self.mlp.prune_prefix()

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), grid)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x), grid)))


class DHVT(IsotropicModel):
    """Dynamic hybrid vision transformer.

    Takes images of any size: nothing depends on it, and the stem's convolutions round up.

    Args:
        patch_size: Stride of the map of patches: 2, 4, 8, 16, ...
        dim: Channels.
        depth: Blocks.
        num_heads: Heads.
        mlp_ratio: Hidden width of the feed-forwards over the channels.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `IsotropicModel`.

    Raises:
        ValueError: A `patch_size` that is no power of two, or heads that do not divide the channels.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        patch_size: int = 16,
        dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        super().__init__(
            stem=OverlappingStem(in_chans, dim, patch_size, **dd),
            class_token=ClassToken(dim, **dd),
            blocks=[DHVTBlock(dim, num_heads, mlp_ratio, rate, **dd) for rate in rates],
            dim=dim,
            reduction=patch_size,
            norm=nn.LayerNorm(dim, eps=1e-6, **dd),
            head=TokenHead(dim, num_classes, global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )
