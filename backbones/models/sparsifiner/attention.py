"""Attention of every query to the keys that a low-rank estimate of the attention finds worth it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.attention.global_attention import TokenAttention
from backbones.layers.pointwise import Linear
from backbones.layers.selection import Kept, attention_mask, best, ceil_share, regather
from backbones.layers.tokens import resize_table
from backbones.ops.attention import biased_attention
from backbones.ops.sizes import is_symbolic, smaller, static_size


def _log(count: int) -> float:
    return math.log(count) if count else -math.inf


class Estimate(NamedTuple):
    """What the predictor says of N tokens, the class token first.

    Attributes:
        coefficients: `(B, heads, N - 1, K)`, of the basis, of every query but the class token.
        attention: `(B, heads, N - 1, N)`, the estimate; -inf at dropped keys.
        pairs: `(B, heads, N, N)` bool, the keys that a query attends to; all for the class token.
    """

    coefficients: torch.Tensor
    attention: torch.Tensor
    pairs: torch.Tensor


class AttentionPredictor(nn.Module):
    """Estimate attention as coefficients over a learned basis, and keep its largest entries (section 3.2).

    Queries and keys are narrowed by linear layers, keys also along the tokens by a table. Their product, through a
    softmax, weighs the rows of the basis. Both tables have a row for every position of a grid, and are resized to
    others.

    Args:
        head_dim: Channels of a head.
        grid_size: `(rows, columns)` that the tables are stored for.
        dim: Channels of the narrowed queries and keys.
        num_basis: Rows of the basis, K.
        keep_rate: Share of the keys that a query attends to; 0 for those whose estimate is above `score_threshold`.
        score_threshold: See `keep_rate`.
        basis_threshold: Entries of the basis count where they are larger in magnitude.
        coef_topk: Largest coefficients of a query that count; 0 for those above `coef_threshold`.
        coef_threshold: See `coef_topk`; 0 for all.
        share_proj: Have one table narrow the keys and be the basis.

    Raises:
        ValueError: Not exactly one of `keep_rate` and `score_threshold`, or more coefficients than the basis has rows.
    """

    def __init__(
        self,
        head_dim: int,
        grid_size: tuple[int, int],
        dim: int = 32,
        num_basis: int = 32,
        keep_rate: float = 0.25,
        score_threshold: float = 0.0,
        basis_threshold: float = 0.02,
        coef_topk: int = 8,
        coef_threshold: float = 0.0,
        share_proj: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if bool(keep_rate) == bool(score_threshold) or not 0 <= keep_rate <= 1:
            raise ValueError(
                f"give attn_keep_rate, above 0 and at most 1, or attn_score_threshold, and 0 for the other; not "
                f"{keep_rate} and {score_threshold}"
            )
        if coef_topk > num_basis:
            raise ValueError(f"basis_coef_topk {coef_topk} must be at most num_basis {num_basis}")
        self.grid_size = tuple(grid_size)
        self.keep_rate, self.score_threshold = keep_rate, score_threshold
        self.basis_threshold = basis_threshold
        self.coef_topk, self.coef_threshold = coef_topk, coef_threshold
        self.proj_c_q = Linear(head_dim, dim, **dd)
        self.proj_c_k = Linear(head_dim, dim, **dd)
        tokens = 1 + grid_size[0] * grid_size[1]
        self.proj_n = nn.Parameter(torch.empty(tokens, num_basis, **dd))
        self.proj_back_n = None if share_proj else nn.Parameter(torch.empty(tokens, num_basis, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.proj_n, self.proj_back_n):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def tables(self, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """What narrows the keys, and the basis, each `(1 + rows * columns, K)`, for a grid of this size."""
        narrow, basis = self.proj_n, self.proj_n if self.proj_back_n is None else self.proj_back_n
        if not is_symbolic(*size) and tuple(map(static_size, size)) == self.grid_size:
            return narrow, basis
        both = torch.cat([narrow, basis], dim=1)[None]
        both = resize_table(both, self.grid_size, size, num_prefix_tokens=1, interpolation="bilinear")[0]
        narrow, basis = both.chunk(2, dim=1)
        scale = self.grid_size[0] * self.grid_size[1] / (size[0] * size[1])  # as it sums over the tokens
        return torch.cat([narrow[:1], narrow[1:] * scale]), basis

    def set_grid_size(self, grid_size: tuple[int, int]) -> None:
        """Resize the stored tables to another grid."""
        for name, table in zip(("proj_n", "proj_back_n"), self.tables(grid_size)):
            old = getattr(self, name)
            if old is not None:
                setattr(self, name, nn.Parameter(table.detach().clone(), requires_grad=old.requires_grad))
        self.grid_size = tuple(grid_size)

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, grid: tuple[int, int], kept: Kept, exact: bool = False
    ) -> Estimate:
        """The estimate of queries and keys.

        Args:
            q, k: `(B, heads, N, head_dim)`, without a scale, of the tokens that are in memory.
            grid: `(H, W)` of all tokens.
            kept: Which those are.
            exact: Leave the basis and the coefficients as they are, as their reconstruction of attention does.
        """
        heads = q.shape[1]
        narrow, basis = self.tables(grid)
        q, k = self.proj_c_q(q), self.proj_c_k(k)
        if kept.index is not None:
            places = (kept.index % kept.mask.shape[1]).view(kept.mask.shape[0], 1, -1)
            narrow, basis = narrow[places], basis[places]
        elif kept.mask is not None:
            q, k = (part * kept.mask[:, None, :, None] for part in (q, k))
        weighed = k.transpose(-2, -1) @ narrow.to(k.dtype)
        coefficients = ((q @ weighed)[:, :, 1:] * heads**-0.5).softmax(-1)
        if not exact:
            basis = basis.abs()
            basis = basis * (basis > self.basis_threshold)
            if self.coef_topk:
                coefficients = coefficients * best(coefficients, self.coef_topk)
            elif self.coef_threshold > 0:
                coefficients = coefficients * (coefficients > self.coef_threshold)
        attention = coefficients @ basis.transpose(-2, -1).to(coefficients.dtype)
        dropped = None if kept.keys is None else ~kept.keys[:, None, None]
        if dropped is not None:
            attention = attention.masked_fill(dropped, float("-inf"))
        return Estimate(coefficients, attention, self._pairs(attention.detach(), grid, kept))

    def _pairs(self, attention: torch.Tensor, grid: tuple[int, int], kept: Kept) -> torch.Tensor:
        if not self.keep_rate:
            pairs = attention > self.score_threshold
        else:
            budget = ceil_share(self.keep_rate, 1 + grid[0] * grid[1])
            count = attention.shape[-1] if kept.count is None else kept.count
            pairs = best(attention, smaller(static_size(count), budget))
        return torch.cat([torch.ones_like(pairs[:, :, :1]), pairs], dim=2)

    def extra_repr(self) -> str:
        keys = f"keep_rate={self.keep_rate}" if self.keep_rate else f"score_threshold={self.score_threshold}"
        return f"grid_size={self.grid_size}, {keys}, coef_topk={self.coef_topk}"


@register_notrace_module
class SparseAttention(TokenAttention):
    """Self-attention over the pairs that an `AttentionPredictor` keeps (section 3), and optionally dropping tokens.

    The class token attends to all. Where patches are dropped, those stay that the class token attends to most; to it,
    each of the others is a key of zero with a value of zero.

    The predictor learns by its reconstruction of the attention; else its estimate of the kept pairs is added to their
    logits as zero, and learns what these do, straight through the choice. Neither reaches queries and keys.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        predictor: Of heads of this width.
        qkv_bias: Bias of the input projection.
        keep_tokens: Share of all patches that are left after this layer; None where it drops none.
        prune_rows: Dropped tokens are no queries either; it does not matter to the others.

    Maps tokens `(B, 1 + H * W, C)`, the grid `(H, W)` and what is `Kept` of the tokens to tokens and what is kept.

    Attributes:
        reconstructs: In training, attend to all, and add the reconstruction's loss to that of `Kept`: the sum of
            squared differences of estimate and attention.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        predictor: AttentionPredictor,
        qkv_bias: bool = True,
        keep_tokens: float | None = None,
        prune_rows: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, device=device, dtype=dtype)
        self.mask_predictor = predictor
        self.keep_tokens = keep_tokens
        self.prune_rows = prune_rows
        self.reconstructs = False

    def forward(self, x: torch.Tensor, grid: tuple[int, int], kept: Kept) -> tuple[torch.Tensor, Kept]:
        q, k, v = self._heads(x, kept)
        if self.reconstructs and self.training:
            estimate, weights = self._reconstruction(q, k, grid, kept)
            loss = (estimate.attention.float() - weights.detach()[:, :, 1:].float()).square().sum()
            kept = kept._replace(loss=loss if kept.loss is None else kept.loss + loss)
            out = weights.to(v.dtype) @ v
        else:
            estimate = self._estimate(q, k, grid, kept)
            k_all, v_all, bias = self._with_dropped(k, v, self._bias(estimate, q.dtype), kept)
            out = biased_attention(q, k_all, v_all, bias)
            if self._may_be_empty:
                out = out * estimate.pairs.any(-1, keepdim=True)
        out = kept.from_rows(out.transpose(1, 2).flatten(2))
        after = kept if self.keep_tokens is None else self._fewer(x, q, k, grid, kept)
        return self.drop(self.proj(regather(out, kept, after))), after

    def attention(
        self, x: torch.Tensor, grid: tuple[int, int], kept: Kept | None = None
    ) -> tuple[Estimate, torch.Tensor]:
        """What the predictor says, and the weights `(B, heads, N, N)`, query by key, that `forward` attends with.

        Args:
            x: Tokens `(B, N, C)`, not gathered.
            grid: `(H, W)`.
            kept: Which of them are kept; all by default.
        """
        kept = Kept() if kept is None else kept
        q, k, _ = self._heads(x, kept)
        if self.reconstructs and self.training:
            return self._reconstruction(q, k, grid, kept)
        estimate = self._estimate(q, k, grid, kept)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self._bias(estimate, q.dtype)
        weights = logits.softmax(-1)
        return estimate, weights * estimate.pairs.any(-1, keepdim=True) if self._may_be_empty else weights

    @property
    def _may_be_empty(self) -> bool:
        """Whether queries may be left without a key."""
        return not self.mask_predictor.keep_rate or self.prune_rows

    def _heads(self, x: torch.Tensor, kept: Kept) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values, each `(B, heads, n, c)`; zero at dropped tokens."""
        qkv = kept.rows(self.qkv(x))
        return qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _estimate(
        self, q: torch.Tensor, k: torch.Tensor, grid: tuple[int, int], kept: Kept, exact: bool = False
    ) -> Estimate:
        estimate = self.mask_predictor(q.detach(), k.detach(), grid, kept, exact)
        if self.prune_rows and kept.keys is not None:
            estimate = estimate._replace(pairs=estimate.pairs & kept.keys[:, None, :, None])
        return estimate

    def _reconstruction(
        self, q: torch.Tensor, k: torch.Tensor, grid: tuple[int, int], kept: Kept
    ) -> tuple[Estimate, torch.Tensor]:
        """The estimate, and the attention to all that it reconstructs."""
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        return self._estimate(q, k, grid, kept, exact=True), weights

    def _bias(self, estimate: Estimate, dtype: torch.dtype) -> torch.Tensor:
        """`(B, heads, N, n)`: 0 where a query attends to a key, else -inf; of a query without a key, 0."""
        pairs = estimate.pairs
        allowed = pairs | ~pairs.any(-1, keepdim=True) if self._may_be_empty else pairs
        bias = attention_mask(allowed, dtype)
        if estimate.attention.requires_grad:
            straight = (estimate.attention - estimate.attention.detach()).to(dtype)
            straight = straight.masked_fill(~pairs[:, :, 1:], 0)
            bias = bias + F.pad(straight, (0, 0, 1, 0))
        return bias

    def _with_dropped(
        self, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, kept: Kept
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of gathered tokens, one key more for the class token, which weighs as much as all that are gone."""
        if kept.index is None:
            return k, v, bias
        extra = bias.new_full((*bias.shape[:3], 1), -math.inf)
        extra[:, :, 0] = _log(kept.mask.shape[1] - kept.count)
        return F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1)), torch.cat([bias, extra], dim=-1)

    def _fewer(self, x: torch.Tensor, q: torch.Tensor, k: torch.Tensor, grid: tuple[int, int], kept: Kept) -> Kept:
        """Keep the patches that the class token attends to most."""
        logits = (q[:, :, :1] * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if kept.index is not None:
            logits = F.pad(logits, (0, 1), value=_log(kept.mask.shape[1] - kept.count))
        weights = logits.detach().softmax(-1)[..., : k.shape[2]]
        scores = kept.in_place(weights.mean(1)[:, 0])
        patches = scores[:, 1:]
        if kept.mask is not None:
            patches = patches.masked_fill(~kept.mask[:, 1:], -math.inf)
        count = ceil_share(self.keep_tokens, grid[0] * grid[1])
        mask = best(patches, count)
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
        return kept.fewer(mask, scores, kept.may_gather(x, self.training), count + 1)
