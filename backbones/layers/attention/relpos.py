"""Relative position bias of two-dimensional attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import to_2tuple
from torch import nn

from backbones.ops.cache import shape_cache
from backbones.ops.sizes import is_symbolic


@shape_cache()
def _offsets(size: int, device: torch.device) -> torch.Tensor:
    """`(size * size,)` table index of (query, key) along one axis: key minus query + size - 1."""
    position = torch.arange(size, device=device)
    return (position[None, :] - position[:, None] + size - 1).flatten()


class RelativePositionBias2d(nn.Module):
    """Learned bias for every key-minus-query offset of a P x Q window (Swin, arXiv 2103.14030, equation 4).

    The table is indexed by key minus query, rows first: entry `[h, dy + P - 1, dx + Q - 1]`. (Swin's own tables are
    query minus key: see `table_of_swin`.)

    Args:
        num_heads: Attention heads.
        window_size: `(P, Q)`.
        resize_mode: How the table is resized to other windows, see `resize_bias_table`.
    """

    def __init__(
        self, num_heads: int, window_size: tuple[int, int], resize_mode: str = "bilinear", device=None, dtype=None
    ) -> None:
        super().__init__()
        self.resize_mode = resize_mode
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
        resized = resize_bias_table(table.detach(), window_size, self.resize_mode)
        self.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)

    def forward(self, p: int, q: int) -> torch.Tensor:
        """Bias `(heads, P * Q, P * Q)`, query by key, of a P x Q window; a table of another size is resized."""
        table = resize_bias_table(self.relative_position_bias_table, (p, q), self.resize_mode)
        return bias_of_offsets(table, p, q)


def table_of_swin(table: torch.Tensor) -> torch.Tensor:
    """The table of `RelativePositionBias2d`, of Swin's own for a P x P window, `((2P - 1)^2, heads)`."""
    side = math.isqrt(table.shape[0])
    return table.T.reshape(-1, side, side).flip(1, 2)


def bias_of_offsets(table: torch.Tensor, p: int, q: int) -> torch.Tensor:
    """Bias `(heads, P * Q, P * Q)`, query by key, from a table `(heads, 2P - 1, 2Q - 1)` by key-minus-query offset."""
    return _spread(table, _offsets(p, table.device), _offsets(q, table.device), p, q)


def _spread(
    table: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, p: int, q: int, keys: tuple[int, int] | None = None
) -> torch.Tensor:
    """`(heads, P * Q, K * L)` for all pairs of positions, from a table by row and column offset.

    Args:
        table: `(heads, row offsets, column offsets)`.
        rows: `(P * K,)` row offset of every query row and key row.
        columns: `(Q * L,)`, the same for columns.
        p, q: P and Q.
        keys: `(K, L)`; `(P, Q)` if None.
    """
    k, l = keys or (p, q)
    heads = table.shape[0]
    bias = table.index_select(1, rows).index_select(2, columns)
    bias = bias.view(heads, p, k, q, l).permute(0, 1, 3, 2, 4)
    return bias.reshape(heads, p * q, k * l)


@shape_cache()
def offset_grid(p: int, q: int, device: torch.device) -> torch.Tensor:
    """`(2P - 1, 2Q - 1, 2)` row and column offset, query minus key, of every entry of `bias_of_offsets`' table."""
    rows, columns = (torch.arange(n - 1, -n, -1, device=device, dtype=torch.float32) for n in (p, q))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)


def log_spaced(offsets: torch.Tensor, trained: tuple[int, int]) -> torch.Tensor:
    """Offsets `(..., 2)` from -8 to 8 over the map or window of the training, log-spaced as in Swin V2's code."""
    scaled = offsets * (8 / torch.tensor([max(n - 1, 1) for n in trained], device=offsets.device))
    return scaled.sign() * (scaled.abs() + 1).log2() / 3


@shape_cache()
def _log_spaced_grid(p: int, q: int, trained: tuple[int, int], device: torch.device) -> torch.Tensor:
    """`offset_grid`, log-spaced."""
    return log_spaced(offset_grid(p, q, device), trained)


class LogSpacedPositionBias2d(nn.Module):
    """Position bias as a function of log-spaced offsets, learned by an MLP (Swin V2, arXiv 2111.09883, section 3.3).

    As it is a function, one that was learned in a window holds in another. Offsets run from -8 to 8 over the window of
    the training before their logarithm is taken; the bias is 16 times a sigmoid.

    Args:
        num_heads: Attention heads.
        trained_window: `(P, Q)`, or one number, of the training; None for the window in use.
        hidden_dim: Hidden width of the MLP.
    """

    def __init__(
        self,
        num_heads: int,
        trained_window: int | tuple[int, int] | None = None,
        hidden_dim: int = 512,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.trained_window = None if trained_window is None else to_2tuple(trained_window)
        self.fc1 = nn.Linear(2, hidden_dim, **dd)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden_dim, num_heads, bias=False, **dd)

    def no_weight_decay(self) -> set[str]:
        """The MLP."""
        return {"fc1.weight", "fc2.weight"}

    def forward(self, p: int, q: int) -> torch.Tensor:
        """Bias `(heads, P * Q, P * Q)`, query by key, of a P x Q window."""
        offsets = _log_spaced_grid(p, q, self.trained_window or (p, q), self.fc1.bias.device)
        table = self.fc2(self.act(self.fc1(offsets.to(self.fc1.bias.dtype))))
        return bias_of_offsets(16 * table.permute(2, 0, 1).sigmoid(), p, q)

    def extra_repr(self) -> str:
        return f"trained_window={self.trained_window}"


@shape_cache()
def _pooled_offsets(size: int, pooled: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Offsets along one axis of positions from the centres of the cells that adaptive pooling makes of them.

    Returns:
        `(offsets,)`, all that can occur, in order; and `(size * pooled,)`, which of them that of (query, key) is.
    """
    position, cell = torch.arange(size, device=device), torch.arange(pooled, device=device)
    first, last = cell * size // pooled, ((cell + 1) * size - 1) // pooled
    halves = (2 * position[:, None] - (first + last)).flatten()
    # Cells of one width have offsets a whole step apart.
    step, width = (1, 1) if is_symbolic(size, pooled) or size % pooled else (2, size // pooled)
    most = 2 * size - 1 - width
    return torch.arange(-most, most + 1, step, device=device) / 2, (halves + most) // step


@shape_cache()
def _pooled_grid(
    size: tuple[int, int], pooled: tuple[int, int], trained: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-spaced offsets `(rows, columns, 2)` of `_pooled_offsets` on both axes, and its indices of each."""
    (rows, row), (columns, column) = (_pooled_offsets(n, m, device) for n, m in zip(size, pooled))
    offsets = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    return log_spaced(offsets, trained), row, column


class PooledPositionBias2d(nn.Module):
    """Bias of a map's positions and the cells of a pooled map, a function of log-spaced offsets (TransNeXt).

    An MLP as in Swin V2, without its sigmoid (arXiv 2311.17132, section 3.3). Offsets are to the centres of the cells,
    and run from -8 to 8 over the map of the training before their logarithm is taken.

    Args:
        num_heads: Attention heads.
        trained_map: `(H, W)` of the training's map.
        hidden_dim: Hidden width of the MLP.
    """

    def __init__(
        self, num_heads: int, trained_map: tuple[int, int], hidden_dim: int = 512, device=None, dtype=None
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.trained_map = tuple(trained_map)
        self.fc1 = nn.Linear(2, hidden_dim, **dd)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden_dim, num_heads, **dd)

    def no_weight_decay(self) -> set[str]:
        """The MLP."""
        return {"fc1.weight", "fc2.weight"}

    def forward(self, size: tuple[int, int], pooled: tuple[int, int]) -> torch.Tensor:
        """Bias `(heads, H * W, P * Q)` of the positions of a map of `size` and its `pooled` cells."""
        offsets, rows, columns = _pooled_grid(tuple(size), tuple(pooled), self.trained_map, self.fc1.bias.device)
        table = self.fc2(self.act(self.fc1(offsets.to(self.fc1.bias.dtype)))).permute(2, 0, 1)
        return _spread(table, rows, columns, *size, tuple(pooled))

    def extra_repr(self) -> str:
        return f"trained_map={self.trained_map}"


@shape_cache()
def _distances(size: int, device: torch.device) -> torch.Tensor:
    """`(size * size,)` distance of (query, key) along one axis."""
    position = torch.arange(size, device=device)
    return (position[None, :] - position[:, None]).abs().flatten()


@shape_cache()
def _distance_buckets(p: int, q: int, exact: int, device: torch.device) -> torch.Tensor:
    """`(P * Q,)` bucket, from 0 to 2 * exact, of every pair of row and column distance."""
    rows, columns = (torch.arange(size, device=device, dtype=torch.float32) for size in (p, q))
    distance = (rows[:, None].square() + columns.square()).sqrt().round()
    far = exact + (distance.clamp(min=exact) / exact).log() / math.log(8) * exact
    return torch.where(distance <= exact, distance, far.round().clamp(max=2 * exact)).long().flatten()


class DistanceBias2d(nn.Module):
    """Learned bias for the Euclidean distance of query and key (iRPE, arXiv 2107.14222, section 3.2, "bias" mode).

    Rounded distances up to `exact` have an entry each; larger ones share `exact` more on a logarithmic scale, which
    ends at 8 * exact. So it holds for maps of any size.

    Args:
        num_heads: Attention heads.
        exact: Largest distance with an entry of its own.

    The table is `(heads, 4 * exact + 1)` as published; its first half, for negative distances, is never read.
    """

    def __init__(self, num_heads: int, exact: int = 20, device=None, dtype=None) -> None:
        super().__init__()
        self.exact = exact
        self.relative_position_bias_table = nn.Parameter(
            torch.empty(num_heads, 4 * exact + 1, device=device, dtype=dtype)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.relative_position_bias_table)

    def forward(self, p: int, q: int) -> torch.Tensor:
        """Bias `(heads, P * Q, P * Q)`, query by key, of a P x Q map."""
        table = self.relative_position_bias_table[:, 2 * self.exact :]
        table = table.index_select(1, _distance_buckets(p, q, self.exact, table.device)).view(-1, p, q)
        return _spread(table, _distances(p, table.device), _distances(q, table.device), p, q)


def resize_bias_table(table: torch.Tensor, window_size: tuple[int, int], mode: str = "bilinear") -> torch.Tensor:
    """Resize a `(heads, 2P-1, 2Q-1)` table to another window with half-pixel centres.

    Args:
        table: The table.
        window_size: `(P, Q)` of the other window.
        mode: "bilinear", as MaxViT does, or "bicubic", as most others do.
    """
    size = (2 * window_size[0] - 1, 2 * window_size[1] - 1)
    # A graph for many sizes must hold at the table's own size too, so it always resizes; there, that changes nothing.
    if not is_symbolic(*size) and table.shape[1] == size[0] and table.shape[2] == size[1]:
        return table
    return F.interpolate(table[None].float(), size=size, mode=mode, align_corners=False)[0].to(table.dtype)
