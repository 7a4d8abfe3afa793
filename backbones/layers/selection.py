"""Models that leave out tokens, or pairs of them: what is kept, computing it alone, and showing it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import torch
from timm.layers import register_notrace_function

from backbones._compat import is_plain_eager
from backbones.ops.sizes import static_size


class Kept(NamedTuple):
    """Which tokens are kept, of every image of a batch, and where they are in memory.

    Usually all N tokens stay in memory, and those that are dropped are masked. Where `index` is set, tokens are
    gathered: `x` is `(1, T, C)`, the kept tokens of the first image, then those of the second, and so on. Linear
    layers, norms and MLPs, which see single tokens, take that as it is; attention wants `rows`.

    Attributes:
        mask: `(B, N)` bool, True where a token is kept; None before any was dropped.
        scores: `(B, N)`, by which tokens were kept; 0 for those that were dropped earlier.
        count: Tokens that every image keeps, where that is one number; None where it is not, or is N.
        index: `(T,)`, places of the gathered tokens among the B * N.
        slots: `(T,)`, their places among the B * n of `rows`; None where all images keep n.
        real: `(B, n)` bool, True where `rows` has a token; None where that is everywhere.
        rest: Gathered tokens are followed by one more, which stands for all that are dropped: they are alike.
        gathers: Whether tokens may be gathered.
        loss: What the blocks so far want to be small, in training; a scalar, or None.
    """

    mask: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    count: int | None = None
    index: torch.Tensor | None = None
    slots: torch.Tensor | None = None
    real: torch.Tensor | None = None
    rest: bool = False
    gathers: bool = False
    loss: torch.Tensor | None = None

    def may_gather(self, x: torch.Tensor, training: bool) -> bool:
        """Whether dropped tokens of `x` may be taken out: in inference, where nothing is traced and no hook watches."""
        return (
            self.gathers
            and not training
            and not torch.is_grad_enabled()
            and x.device.type != "meta"
            and is_plain_eager()
        )

    def fewer(
        self,
        mask: torch.Tensor,
        scores: torch.Tensor,
        gather: bool,
        count: int | None = None,
        rest: bool = False,
    ) -> Kept:
        """What is kept once fewer tokens are: those of `mask`.

        Args:
            mask, scores, count, rest: See the attributes.
            gather: Where they are kept alone; see `may_gather` and `regather`.
        """
        if not gather:
            return self._replace(mask=mask, scores=scores, count=count)
        after = Kept(mask, scores, count, mask.flatten().nonzero()[:, 0], rest=rest, gathers=self.gathers)
        if count is not None:
            return after
        batch, counts = len(mask), mask.sum(1)
        most = int(counts.max())
        if len(after.index) == batch * most:
            return after
        places = mask.cumsum(1) - 1 + most * torch.arange(batch, device=mask.device)[:, None]
        real = torch.arange(most, device=mask.device) < counts[:, None]
        return after._replace(slots=places.flatten()[after.index], real=real)

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens `x` as a row an image, `(B, n, C)`, with zeros for dropped ones; n is N where none are gathered."""
        if self.index is None:
            return x if self.mask is None else x * self.mask.unsqueeze(-1)
        batch, x = self.mask.shape[0], x[0, : len(self.index)]
        if self.slots is None:
            return x.view(batch, -1, x.shape[-1])
        rows = x.new_zeros(self.real.numel(), x.shape[-1])
        return rows.index_copy_(0, self.slots, x).view(batch, -1, x.shape[-1])

    def from_rows(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `rows`; tokens that are dropped become zero."""
        if self.index is None:
            return x if self.mask is None else x * self.mask.unsqueeze(-1)
        x = x.flatten(0, 1)
        x = x if self.slots is None else x.index_select(0, self.slots)
        return (torch.cat([x, x.new_zeros(1, x.shape[-1])]) if self.rest else x)[None]

    def in_place(self, values: torch.Tensor) -> torch.Tensor:
        """Numbers `(B, n)` of the tokens of `rows` as `(B, N)`, with zeros for dropped tokens."""
        if self.index is None:
            return values if self.mask is None else values * self.mask
        values = values.flatten() if self.slots is None else values.flatten()[self.slots]
        return values.new_zeros(self.mask.numel()).index_copy_(0, self.index, values).view(self.mask.shape)

    @property
    def keys(self) -> torch.Tensor | None:
        """`(B, n)` bool, which tokens of `rows` are kept; None where all are."""
        return self.mask if self.index is None else self.real


@register_notrace_function
def regather(x: torch.Tensor, before: Kept, after: Kept) -> torch.Tensor:
    """Tokens that lie as `before` says, as `after` says; what stands for the dropped ones starts as zero."""
    if after.index is None or after.mask is before.mask:
        return x
    if before.index is None:
        x = x.flatten(0, 1).index_select(0, after.index)
    else:
        kept = after.mask.flatten().index_select(0, before.index)
        x = x[0, : len(before.index)].index_select(0, kept.nonzero()[:, 0])
    return (torch.cat([x, x.new_zeros(1, x.shape[-1])]) if after.rest else x)[None]


@register_notrace_function
def whole_tokens(x: torch.Tensor, kept: Kept) -> torch.Tensor:
    """All tokens, `(B, N, C)`: gathered ones in their places, in the others what stands for them, or zero."""
    if kept.index is None:
        return x
    out = x.new_zeros(kept.mask.numel(), x.shape[-1])
    if kept.rest:
        out += x[0, -1]
    return out.index_copy_(0, kept.index, x[0, : len(kept.index)]).view(*kept.mask.shape, -1)


@register_notrace_function
def without_dropped(x: torch.Tensor, kept: Kept) -> torch.Tensor:
    """Tokens with zeros in the places of dropped ones."""
    return x if kept.mask is None or kept.index is not None else x * kept.mask.unsqueeze(-1)


class Selection(NamedTuple):
    """What a block looks at.

    Attributes:
        tokens: `(B, P + H * W)` bool, the tokens that are computed.
        pairs: `(B, heads, P + H * W, P + H * W)` bool, query by key, the pairs that attention computes; None where they
            are all pairs of `tokens`.
        scores: `(B, P + H * W)`, by which tokens were kept; None where none are dropped.
        grid: `(H, W)`.
    """

    tokens: torch.Tensor
    pairs: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    grid: tuple[int, int] | None = None

    @property
    def token_share(self) -> torch.Tensor:
        """`(B,)`, the share of tokens that are computed, prefix tokens included."""
        return self.tokens.float().mean(1)

    @property
    def pair_share(self) -> torch.Tensor:
        """`(B,)`, the share of pairs of tokens that attention computes."""
        if self.pairs is None:
            return self.token_share.square()
        both = self.tokens[:, None, :, None] & self.tokens[:, None, None, :]
        return (self.pairs & both).float().mean((1, 2, 3))

    def map(self, values: torch.Tensor | None = None) -> torch.Tensor:
        """`tokens`, or other `values` `(..., P + H * W)`, such as scores or a row of pairs, as maps `(..., H, W)`."""
        values = self.tokens if values is None else values
        height, width = self.grid
        return values[..., -height * width :].unflatten(-1, self.grid)


def ceil_share(rate: float, count: int) -> int:
    """`ceil(rate * count)`; of symbolic counts too."""
    if isinstance(count, torch.SymInt):
        share = Fraction(rate).limit_denominator(1 << 16)
        return -(-count * share.numerator // share.denominator)
    return math.ceil(rate * static_size(count))


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Bool of the shape of `scores`, True for the `count` largest along the last dimension."""
    # Of bools, torch.jit.trace has no scatter.
    return (
        torch.zeros_like(scores, dtype=torch.uint8)
        .scatter(-1, scores.topk(count, dim=-1, sorted=False).indices, 1)
        .bool()
    )


def attention_mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`allowed`, bool, as what is added to attention's logits: 0, or -inf."""
    return torch.where(allowed, 0.0, -math.inf).to(dtype)
