"""Blocks of GC ViT: its convolutions, the queries made of a whole map, and attention with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.attention.window import WindowAttention
from backbones.layers.block import MixerBlock
from backbones.layers.norm import LayerNorm2d
from backbones.layers.pointwise import Linear
from backbones.layers.squeeze_excite import SqueezeExcite
from backbones.models.skeleton import Stage
from backbones.ops.chunks import in_chunks
from backbones.ops.fusion import fused
from backbones.ops.sizes import is_symbolic
from backbones.ops.window import Groups, window_attention


@register_notrace_module
class FusedMBConv(nn.Module):
    """`x + pointwise(squeeze_excite(GELU(depthwise(x))))`, no biases; keeps `(B, C, H, W)`.

    The depthwise convolution is 3x3. (arXiv 2206.09959, section 2, "Downsampler".)
    """

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False, **dd)
        self.act = nn.GELU()
        self.se = SqueezeExcite(dim, dim // 4, nn.GELU, bias=False, **dd)
        self.pwconv = nn.Conv2d(dim, dim, 1, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + fused(self.dwconv, self.act, self.se, self.pwconv)(x)


class Downsample(nn.Module):
    """LayerNorm, `FusedMBConv`, 3x3 stride-2 convolution, LayerNorm.

    Maps `(B, C, H, W)` to `(B, D, ceil(H / 2), ceil(W / 2))`.
    """

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm1 = LayerNorm2d(in_dim, **dd)
        self.conv = FusedMBConv(in_dim, **dd)
        self.reduction = nn.Conv2d(in_dim, dim, 3, stride=2, padding=1, bias=False, **dd)
        self.norm2 = LayerNorm2d(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm2(self.reduction(self.conv(self.norm1(x))))


@register_notrace_module
class QueryGenerator(nn.Module):
    """Queries of one window, made of a whole map (GC ViT, section 2, "Global query generator").

    `FusedMBConv` and max pooling (3x3, stride 2) in turn; a result of another size than the window is resized to it
    (bicubic), as in the authors' detectors.

    Args:
        dim: Channels C.
        window_size: `(P, Q)`.
        pools: Poolings, each after a `FusedMBConv`; 0 for one `FusedMBConv` alone.

    Maps `(B, C, H, W)` to `(B, P * Q, C)`.
    """

    def __init__(self, dim: int, window_size: tuple[int, int], pools: int, device=None, dtype=None) -> None:
        super().__init__()
        self.window_size = window_size
        self.pools = pools
        self.convs = nn.Sequential(*(FusedMBConv(dim, device=device, dtype=dtype) for _ in range(max(pools, 1))))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pools else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = self.pool(conv(x))
        height, width = x.shape[2:]
        # A graph for many sizes always resizes; at the window's own size that changes nothing.
        if is_symbolic(height, width) or (height, width) != self.window_size:
            x = F.interpolate(x, size=self.window_size, mode="bicubic", align_corners=False)
        return x.permute(0, 2, 3, 1).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"window_size={self.window_size}, pools={self.pools}"


@register_notrace_module
class GlobalQueryAttention(WindowAttention):
    """Attention within windows whose queries are the same in all windows of an image (GC ViT, section 2).

    Queries take no projection: token n of them stands at position n of every window. `qkv` projects to keys and values.
    Padding is as in `WindowAttention` with `mask_padding=False`.

    Args:
        dim, num_heads, window_size: As in `WindowAttention`.
    """

    def __init__(self, dim: int, num_heads: int, window_size: tuple[int, int], device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, num_heads, window_size, mask_padding=False, resize_mode="bicubic", **dd)
        self.qkv = Linear(dim, 2 * dim, **dd)

    def forward(self, x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """`(B, H, W, C)` and queries `(B, P * Q, C)` to `(B, H, W, C)`."""
        groups = Groups.of(x, self.window_size)
        bias = self.rel_pos(*self.window_size)

        def attend(x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
            q = query.unflatten(-1, (self.num_heads, -1))
            k, v = self.qkv(x).unflatten(-1, (2, self.num_heads, -1)).unbind(3)
            return self.proj(window_attention(q, k, v, bias).flatten(3))

        x = groups.cut(groups.pad(x))
        query = _in_every_window(query, x)
        x = in_chunks(attend, x, lambda: (self.qkv, self.proj), axis=1, beside=query)
        return groups.crop(groups.join(x))


def _in_every_window(query: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Queries `(B, N, C)` in the shape of what `Groups.cut` gives, `(B, G, N, C)` or `(1, B * G, N, C)`."""
    if not is_symbolic(x.shape[1]):
        return query[:, None].expand_as(x)
    image = torch.arange(x.shape[1], device=x.device) // (x.shape[1] // query.shape[0])
    return query.index_select(0, image)[None]


class LocalBlock(MixerBlock):
    """`MixerBlock` of a stage with global queries, which it does not take."""

    def forward(self, x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


class GlobalBlock(MixerBlock):
    """`MixerBlock` whose mixer takes the global queries of the stage."""

    def forward(self, x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), query)))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2)


class GCViTStage(Stage):
    """A stage that makes queries of its input, once, for all of its blocks.

    Args:
        blocks: `LocalBlock` and `GlobalBlock` in turn.
        query: From `(B, C, H, W)` to `(B, P * Q, C)`.
        downsample: As in `Stage`.
    """

    def __init__(self, blocks: Sequence[nn.Module], query: nn.Module, downsample: nn.Module | None = None) -> None:
        super().__init__(blocks, downsample)
        self.query = query

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        return self.run_blocks(x, self.query(x))
