"""Blocked local attention: windows of keys that overlap, one for every block of queries."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.conv.mbconv import AvgPool2dSame
from backbones.layers.pointwise import Linear
from backbones.ops.attention import biased_attention
from backbones.ops.cache import shape_cache
from backbones.ops.window import Groups, halo_windows


@shape_cache()
def _offsets(block: int, window: int, device: torch.device) -> torch.Tensor:
    """`(block * window,)` table entry of every query and key along one axis: key minus query + window - 1."""
    query, key = torch.arange(block, device=device), torch.arange(window, device=device)
    return (key[None, :] - query[:, None] + window - 1).flatten()


class FactorizedRelativePosition(nn.Module):
    """Learned vectors for row and column offsets, multiplied with the query (arXiv 2103.12731, section 2.2).

    The logit of a query q and a key that is dy rows and dx columns away gets `q . height_rel[dy] + q . width_rel[dx]`,
    so it takes 2w - 1 vectors an axis for windows of w x w. All heads share them.

    Args:
        dim: Channels c of a query.
        block: Side of a block of queries.
        window: Side w of the window of keys.
    """

    def __init__(self, dim: int, block: int, window: int, device=None, dtype=None) -> None:
        super().__init__()
        self.block = block
        self.window = window
        self.height_rel = nn.Parameter(torch.empty(2 * window - 1, dim, device=device, dtype=dtype))
        self.width_rel = nn.Parameter(torch.empty(2 * window - 1, dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.height_rel, self.width_rel):
            nn.init.trunc_normal_(table, std=table.shape[1] ** -0.5)

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        """Queries `(..., block * block, c)` to the terms of all keys, `(..., block * block, w * w)`."""
        offsets = _offsets(self.block, self.window, q.device)
        rows, columns = (
            table.index_select(0, offsets).unflatten(0, (self.block, self.window)).to(q.dtype)
            for table in (self.height_rel, self.width_rel)
        )
        q = q.unflatten(-2, (self.block, self.block))
        of_rows = torch.einsum("...yxc,yjc->...yxj", q, rows)
        of_columns = torch.einsum("...yxc,xjc->...yxj", q, columns)
        return (of_rows[..., None] + of_columns[..., None, :]).flatten(-2).flatten(-3, -2)

    def extra_repr(self) -> str:
        return f"block={self.block}, window={self.window}"


@register_notrace_module
class HaloAttention(nn.Module):
    """Local attention of blocks of queries (HaloNet; Vaswani et al., CVPR 2021, arXiv 2103.12731, section 2.2).

    The queries of a block of b x b positions share a window of keys: the block, and a halo of h positions around it.
    With a stride of 2, every second query of both axes is taken, of the same windows. Positions outside of the map,
    in a halo or where blocks do not divide the map, have keys and values of zero, and are attended to.

    Args:
        dim: Channels C.
        dim_out: Channels D of the values.
        num_heads: Heads; must divide D.
        head_dim: Channels of a head's queries and keys.
        block_size: b.
        halo_size: h.
        stride: 1 or 2. With odd blocks, and with `avg_down`, attention has every query, and its output is averaged.
        avg_down: Average at stride 2.
        qkv_bias: Bias of the input projections.
        scale_positions: Scale the relative position's terms by the root of `head_dim`, as the content's.

    Maps `(B, H, W, C)` to `(B, ceil(H / stride), ceil(W / stride), D)`. There is no output projection.

    Raises:
        ValueError: `num_heads` does not divide D, or another stride.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        head_dim: int,
        block_size: int = 8,
        halo_size: int = 3,
        stride: int = 1,
        avg_down: bool = False,
        qkv_bias: bool = False,
        scale_positions: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if dim_out % num_heads:
            raise ValueError(f"dim_out {dim_out} must be a multiple of num_heads {num_heads}")
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, not {stride}")
        dd = {"device": device, "dtype": dtype}
        averages = stride == 2 and (avg_down or block_size % 2 == 1)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.block_size = block_size
        self.halo_size = halo_size
        self.query_stride = 1 if averages else stride
        self.scale_positions = scale_positions
        self.q = Linear(dim, num_heads * head_dim, bias=qkv_bias, **dd)
        self.kv = Linear(dim, num_heads * head_dim + dim_out, bias=qkv_bias, **dd)
        self.pos_embed = FactorizedRelativePosition(
            head_dim, block_size // self.query_stride, block_size + 2 * halo_size, **dd
        )
        self.pool = AvgPool2dSame() if averages else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = self.query_stride
        q = self.q(x[:, ::step, ::step])
        blocks = Groups.of(q, (self.block_size // step,) * 2)
        q = blocks.cut(blocks.pad(q)).flatten(0, 1)
        kv = halo_windows(self.kv(x), self.block_size, self.halo_size, blocks.count).flatten(0, 1)
        q, kv = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, kv))
        k, v = kv.split([self.head_dim, kv.shape[-1] - self.head_dim], -1)
        bias = self.pos_embed(q * self.head_dim**-0.5 if self.scale_positions else q)
        out = biased_attention(q, k, v, bias)
        out = blocks.crop(blocks.join(out.transpose(1, 2).flatten(2).unflatten(0, (blocks.batch, -1))))
        return self.pool(out.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, block_size={self.block_size}, halo_size={self.halo_size}"
