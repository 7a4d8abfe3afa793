"""Attention among super tokens: weighted means of a map over cells that follow its content."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module, to_2tuple

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.ops.routing import Regions
from backbones.ops.sizes import crop_map, static_size
from backbones.ops.super_tokens import neighbours, sum_to_neighbours

EPS = 1e-12  # of the sum of weights


@register_notrace_module
class SuperTokenAttention(GlobalAttention2d):
    """Super token attention (STA; Huang et al., CVPR 2023, arXiv 2211.11167, section 3.2).

    The means of a regular grid's cells are the first super tokens. Every position is divided among the super tokens of
    its cell and of the 8 cells around it, by the softmax of its products with them, and super tokens become the
    weighted means of their positions. They attend to each other, and every position receives what its 9 super tokens
    have become, by the same weights. The weights carry no gradient.

    As in the published models, a neighbour outside of the grid is a zero vector, which takes its part of the softmax;
    and where cells do not divide the map, it is zero-padded below and right, and padding counts in the means.

    Args:
        dim: Channels C. The products are scaled by C ** -0.5.
        num_heads: Heads of the attention among super tokens; must divide C.
        cell_size: Height and width of a cell, in positions.
        num_iters: How often weights are computed; each time after the first from the last weighted means.
        qkv_bias: Bias of the input projection.

    Maps `(B, H, W, C)` to `(B, H, W, C)`, any H and W.

    Raises:
        ValueError: `num_heads` does not divide C, or `cell_size` or `num_iters` is below 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        cell_size: int | tuple[int, int],
        num_iters: int = 1,
        qkv_bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, device=device, dtype=dtype)
        self.cell_size = to_2tuple(cell_size)
        self.num_iters = num_iters
        if min(*self.cell_size, num_iters) < 1:
            raise ValueError(f"cell_size {cell_size} and num_iters {num_iters} must be at least 1")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = static_size(x.shape[1]), static_size(x.shape[2])
        h, w = self.cell_size
        cells = Regions((height + h - 1) // h, (width + w - 1) // w, h, w)
        tokens = cells.cut(x)
        weights, total = self.assign(tokens, cells)
        super_tokens = super().forward(_weighted_means(weights, total, tokens))
        out = weights.to(x.dtype) @ neighbours(super_tokens)
        return crop_map(cells.join(out), height, width)

    @torch.no_grad()
    def assign(self, tokens: torch.Tensor, cells: Regions) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of the super tokens around every position.

        Args:
            tokens: `(B, M, t, C)`: the t positions of M cells.
            cells: The grid.

        Returns:
            `(B, M, t, 9)`: weights of the 3 x 3 super tokens around every cell, row-major, and `(B, rows, columns, 1)`:
            the sum of weights of every super token.
        """
        weights, total = _weights(tokens, tokens.mean(2).unflatten(1, (cells.rows, cells.cols)))
        for _ in range(1, self.num_iters):
            weights, total = _weights(tokens, _weighted_means(weights, total, tokens))
        return weights, total

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, cell_size={self.cell_size}, num_iters={self.num_iters}"


def _weights(tokens: torch.Tensor, super_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `assign` returns, for super tokens `(B, rows, columns, C)`."""
    logits = tokens @ (neighbours(super_tokens) * tokens.shape[-1] ** -0.5).mT
    weights = logits.softmax(-1)
    sums = weights.sum(2, dtype=torch.promote_types(weights.dtype, torch.float32))
    return weights, sum_to_neighbours(sums[..., None], *super_tokens.shape[1:3])


def _weighted_means(weights: torch.Tensor, total: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Super tokens `(B, rows, columns, C)` of tokens `(B, M, t, C)`, by what `assign` returns."""
    sums = sum_to_neighbours(weights.to(tokens.dtype).mT @ tokens, *total.shape[1:3])
    return (sums / (total + EPS)).to(tokens.dtype)
