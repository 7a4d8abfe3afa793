"""Attention through a few agent tokens, which makes it linear in the number of positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, to_2tuple
from torch import nn

from backbones.layers.pointwise import Linear
from backbones.ops.attention import biased_attention
from backbones.ops.sizes import is_symbolic

NATIVE = 7  # rows and columns of the stored two-dimensional part of the biases


@register_notrace_module
class AgentAttention(nn.Module):
    """Agent attention (Han et al., ECCV 2024, arXiv 2312.08874, section 4).

    The queries are pooled to P x P agents. These attend to all positions, and every position to the agents. Both have a
    position bias for every pair of agent and position, the sum of a 7 x 7 map, of one vector along the rows and of one
    along the columns; and a depthwise convolution of the values is added.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        map_size: `(H, W)` of the maps that the vectors of the biases are stored for; for others they are interpolated.
        agent_size: P.
        pool_size: Agents a side, or `(rows, columns)`, that the queries are pooled to in fact, as in the authors'
            detectors: the biases are interpolated between the P x P agents that they are stored for. None for P.
        num_prefix_tokens: Tokens in front of the map, which are attended to and attend to the agents, but make no
            agents. None for maps.
        qkv_bias: Bias of the input projection.

    Maps `(B, H, W, C)` to `(B, H, W, C)`; or, with `num_prefix_tokens`, tokens `(B, P + H * W, C)` and the grid
    `(H, W)` to tokens. Any H and W.

    Raises:
        ValueError: `num_heads` does not divide C, or there are no agents.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        map_size: int | tuple[int, int],
        agent_size: int = 7,
        pool_size: int | tuple[int, int] | None = None,
        num_prefix_tokens: int | None = None,
        qkv_bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.agent_size = agent_size
        self.pool_size = to_2tuple(agent_size if pool_size is None else pool_size)
        if min(agent_size, *self.pool_size) < 1:
            raise ValueError(f"agent_size {agent_size} and pool_size {pool_size} must be at least 1")
        self.num_prefix_tokens = num_prefix_tokens
        self.map_size = height, width = to_2tuple(map_size)
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, **dd)

        def bias(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(num_heads, agent_size**2, *size, **dd))

        # Of agents to positions (an: map, ah: rows, aw: columns), and of positions to agents.
        self.an_bias, self.ah_bias, self.aw_bias = bias(NATIVE, NATIVE), bias(height), bias(width)
        self.na_bias, self.ha_bias, self.wa_bias = bias(NATIVE, NATIVE), bias(height), bias(width)
        self.ac_bias = self.ca_bias = None
        if num_prefix_tokens:
            self.ac_bias, self.ca_bias = bias(num_prefix_tokens), bias(num_prefix_tokens)
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.proj = Linear(dim, dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters(recurse=False):
            nn.init.trunc_normal_(parameter, std=0.02)

    def prune_prefix(self) -> None:
        """Remove the bias of what the prefix tokens attend to; it is zero then."""
        self.ca_bias = None

    @torch.no_grad()
    def set_map_size(self, map_size: int | tuple[int, int]) -> None:
        """Interpolate the stored vectors of the biases to maps of another size."""
        self.map_size = to_2tuple(map_size)
        for name, size in zip(("ah_bias", "aw_bias", "ha_bias", "wa_bias"), 2 * self.map_size):
            old = getattr(self, name)
            setattr(self, name, nn.Parameter(resize_lines(old, size), requires_grad=old.requires_grad))

    def biases(self, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`(heads, agents, P + H * W)` of agents to tokens, and `(heads, P + H * W, agents)` of tokens to agents."""
        # The sum of two vectors, interpolated bilinearly, is that of the vectors, each interpolated along its axis.
        maps = _resize(torch.cat([self.an_bias, self.na_bias]), (height, width))
        rows = resize_lines(torch.cat([self.ah_bias, self.ha_bias]), height)
        columns = resize_lines(torch.cat([self.aw_bias, self.wa_bias]), width)
        bias = (maps + rows[..., None] + columns[..., None, :]).flatten(2)
        if self.ac_bias is not None:
            ca = torch.zeros_like(self.ac_bias) if self.ca_bias is None else self.ca_bias
            bias = torch.cat([torch.cat([self.ac_bias, ca]), bias], dim=2)
        side = self.agent_size
        if self.pool_size != (side, side):
            agents = _resize(bias.transpose(1, 2).unflatten(2, (side, side)), self.pool_size)
            bias = agents.flatten(2).transpose(1, 2)
        to_tokens, to_agents = bias.chunk(2)
        return to_tokens, to_agents.transpose(1, 2)

    def forward(self, x: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        if grid is None:
            return self._attend(x.flatten(1, 2), x.shape[1], x.shape[2]).unflatten(1, x.shape[1:3])
        return self._attend(x, *grid)

    def _attend(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Of tokens `(B, P + H * W, C)`."""
        prefix, dim = self.num_prefix_tokens or 0, x.shape[-1]
        qkv = self.qkv(x)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        maps = qkv[:, prefix:].unflatten(1, (height, width)).permute(0, 3, 1, 2)
        agents = F.adaptive_avg_pool2d(maps[:, :dim], self.pool_size).flatten(2)
        agents = agents.unflatten(1, (self.num_heads, -1)).transpose(2, 3)
        to_tokens, to_agents = self.biases(height, width)
        values = biased_attention(agents, k, v, to_tokens[None])
        out = biased_attention(q, agents, values, to_agents[None]).transpose(1, 2).flatten(2)
        local = self.dwc(maps[:, 2 * dim :]).flatten(2).transpose(1, 2)
        out = torch.cat([out[:, :prefix], out[:, prefix:] + local], dim=1) if prefix else out + local
        return self.proj(out)

    def extra_repr(self) -> str:
        pooled = "" if self.pool_size == to_2tuple(self.agent_size) else f", pool_size={self.pool_size}"
        return f"num_heads={self.num_heads}, map_size={self.map_size}, agent_size={self.agent_size}{pooled}"


def _resize(table: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`(N, C, h, w)` to `(N, C, *size)`, bilinear, with half-pixel centres."""
    # A graph for many sizes must hold at the table's own size too, so it resizes there as well, to the same table.
    if not is_symbolic(*size) and tuple(table.shape[2:]) == tuple(size):
        return table
    dtype = torch.promote_types(table.dtype, torch.float32)
    return F.interpolate(table.to(dtype), size=size, mode="bilinear", align_corners=False).to(table.dtype)


def resize_lines(table: torch.Tensor, size: int) -> torch.Tensor:
    """`(N, C, n)` to `(N, C, size)`, linear, with half-pixel centres."""
    if not is_symbolic(size) and table.shape[2] == size:
        return table
    dtype = torch.promote_types(table.dtype, torch.float32)
    return F.interpolate(table.to(dtype), size=size, mode="linear", align_corners=False).to(table.dtype)
