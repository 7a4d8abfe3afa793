"""What joins the tokens of a map: class token, position embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, to_2tuple
from torch import nn

from backbones.ops.sizes import is_symbolic, static_size


class ClassToken(nn.Module):
    """A learned token in front of the others: `(B, N, C)` to `(B, 1 + N, C)` (ViT, arXiv 2010.11929, section 3.1)."""

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(1, 1, dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.token, std=0.02)

    def no_weight_decay(self) -> set[str]:
        return {"token"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)


def resize_table(
    table: torch.Tensor,
    grid_size: tuple[int, int],
    size: tuple[int, int],
    num_prefix_tokens: int = 0,
    interpolation: str = "bicubic",
) -> torch.Tensor:
    """Vectors of the positions of one grid for another; those of prefix tokens stay.

    Args:
        table: `(1, P + rows * columns, C)`.
        grid_size: Its `(rows, columns)`.
        size: `(rows, columns)` of the result.
        num_prefix_tokens: P.
        interpolation: "bicubic" or "bilinear", with half-pixel centres.
    """
    # A graph for many sizes must hold at the table's own size too, so it resizes there as well, to the same table.
    if not is_symbolic(*size) and tuple(map(static_size, size)) == grid_size:
        return table
    prefix, grid = table.split([num_prefix_tokens, table.shape[1] - num_prefix_tokens], dim=1)
    grid = grid.unflatten(1, grid_size).permute(0, 3, 1, 2)
    dtype = torch.promote_types(table.dtype, torch.float32)
    grid = F.interpolate(grid.to(dtype), size=size, mode=interpolation, align_corners=False)
    return torch.cat([prefix, grid.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


@register_notrace_module
class PositionEmbedding(nn.Module):
    """Add a learned vector for every position of a grid, and for every prefix token.

    The table is stored for one grid and resized to any other.

    Args:
        dim: Channels C.
        grid_size: `(rows, columns)` that the table is stored for.
        num_prefix_tokens: Tokens before those of the grid that have a vector of their own.
        interpolation: "bicubic" or "bilinear", with half-pixel centres.
        decayed: Whether weight decay is applied to the table.

    Maps `(B, P + H * W, C)` and the grid `(H, W)` to the same shape; the table is `(1, P + rows * columns, C)`.
    """

    def __init__(
        self,
        dim: int,
        grid_size: tuple[int, int],
        num_prefix_tokens: int = 0,
        interpolation: str = "bicubic",
        decayed: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.grid_size = tuple(grid_size)
        self.num_prefix_tokens = num_prefix_tokens
        self.interpolation = interpolation
        self.decayed = decayed
        tokens = num_prefix_tokens + grid_size[0] * grid_size[1]
        self.table = nn.Parameter(torch.empty(1, tokens, dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)

    def no_weight_decay(self) -> set[str]:
        return set() if self.decayed else {"table"}

    def resized(self, table: torch.Tensor, grid_size: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
        """A table of the grid `grid_size` for another, `size`; the prefix tokens' vectors stay.

        Args:
            table: `(1, P + rows * columns, C)`.
            grid_size: Its `(rows, columns)`.
            size: `(rows, columns)` of the result.
        """
        return resize_table(table, grid_size, size, self.num_prefix_tokens, self.interpolation)

    def set_grid_size(self, grid_size: int | tuple[int, int]) -> None:
        """Resize the stored table to another grid."""
        grid_size = to_2tuple(grid_size)
        table = self.resized(self.table.detach(), self.grid_size, grid_size)
        self.table = nn.Parameter(table, requires_grad=self.table.requires_grad)
        self.grid_size = grid_size

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return x + self.resized(self.table, self.grid_size, grid)

    def extra_repr(self) -> str:
        return f"grid_size={self.grid_size}, num_prefix_tokens={self.num_prefix_tokens}"


@register_notrace_module
class MapPositionEmbedding(PositionEmbedding):
    """The same of a map: `(B, C, H, W)` to the same shape; there are no prefix tokens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = (x.shape[2], x.shape[3])
        table = self.resized(self.table, self.grid_size, grid)
        return x + table.unflatten(1, grid).permute(0, 3, 1, 2)
