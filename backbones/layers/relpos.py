"""Relative position bias of two-dimensional attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from backbones.layers.cache import shape_cache


@shape_cache()
def _offsets(size: int, device: torch.device) -> torch.Tensor:
    """`(size * size,)` table index of (query, key) along one axis: key minus query + size - 1."""
    position = torch.arange(size, device=device)
    return (position[None, :] - position[:, None] + size - 1).flatten()


class RelativePositionBias2d(nn.Module):
    """Learned bias for every key-minus-query offset of a P x Q window (Swin, arXiv 2103.14030, equation 4).

    The table is indexed by key minus query, rows first: entry `[h, dy + P - 1, dx + Q - 1]`. (Swin's own tables are
    query minus key: flip both axes to convert.)

    Args:
        num_heads: Attention heads.
        window_size: `(P, Q)`.
    """

    def __init__(self, num_heads: int, window_size: tuple[int, int], device=None, dtype=None) -> None:
        super().__init__()
        p, q = window_size
        self.relative_position_bias_table = nn.Parameter(
            torch.empty(num_heads, 2 * p - 1, 2 * q - 1, device=device, dtype=dtype)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def set_window_size(self, window_size: tuple[int, int]) -> None:
        """Resize the stored table to another window."""
        table = self.relative_position_bias_table
        resized = resize_bias_table(table.detach(), window_size)
        self.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)

    def forward(self, p: int, q: int) -> torch.Tensor:
        """Bias `(heads, P * Q, P * Q)`, query by key, of a P x Q window; a table of another size is resized."""
        table = resize_bias_table(self.relative_position_bias_table, (p, q))
        heads = table.shape[0]
        bias = table.index_select(1, _offsets(p, table.device)).index_select(2, _offsets(q, table.device))
        bias = bias.view(heads, p, p, q, q).permute(0, 1, 3, 2, 4)
        return bias.reshape(heads, p * q, p * q)


def resize_bias_table(table: torch.Tensor, window_size: tuple[int, int]) -> torch.Tensor:
    """Resize a `(heads, 2P-1, 2Q-1)` table to another window, bilinear with half-pixel centres, as MaxViT does."""
    size = (2 * window_size[0] - 1, 2 * window_size[1] - 1)
    # A graph for many sizes must hold at the table's own size too, so it always resizes; there, that changes nothing.
    captured = any(isinstance(n, torch.SymInt) for n in size)
    if not captured and table.shape[1] == size[0] and table.shape[2] == size[1]:
        return table
    return F.interpolate(table[None].float(), size=size, mode="bilinear", align_corners=False)[0].to(table.dtype)
