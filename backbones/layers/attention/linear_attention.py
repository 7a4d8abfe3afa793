"""Linear attention of every position of a map to every other, and the softmax attention that it takes turns with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.pointwise import Linear
from backbones.ops.attention import biased_attention
from backbones.ops.autocast import no_autocast
from backbones.ops.rotary import map_rotations, rotate

EPS = 1e-6  # of the normaliser


@register_notrace_module
class GatedRotaryAttention(nn.Module):
    """Softmax attention with rotary positions, a local position encoding, and an output gate.

    The attention of RAVLT's late stages (arXiv 2411.07635): queries and keys are turned by their positions; a depthwise
    convolution of the values is added to what the heads attend to; the sum is multiplied by a fourth projection of the
    input, which no activation follows.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C into multiples of 4.
        lepe_kernel: Side of the depthwise convolution, odd.

    Maps `(B, H, W, C)` to `(B, H, W, C)`, any H and W.

    Raises:
        ValueError: Heads that do not divide the channels so, or a kernel of even size.
    """

    def __init__(self, dim: int, num_heads: int, lepe_kernel: int = 5, device=None, dtype=None) -> None:
        super().__init__()
        if num_heads < 1 or dim % (4 * num_heads):
            raise ValueError(f"dim {dim} must be a multiple of 4 times num_heads {num_heads}, for rotary positions")
        if lepe_kernel % 2 == 0:
            raise ValueError(f"lepe_kernel must be odd, not {lepe_kernel}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkvo = Linear(dim, 4 * dim, **dd)
        self.lepe = nn.Conv2d(dim, dim, lepe_kernel, padding=lepe_kernel // 2, groups=dim, **dd)
        self.proj = Linear(dim, dim, **dd)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values `(B, heads, N, c)` to `(B, heads, N, c)`.

        Args:
            rotations: Of the N positions, see `rotate`.
        """
        return biased_attention(rotate(q, rotations), rotate(k, rotations), v)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width, dim = x.shape[1:]
        qkvo = self.qkvo(x)
        v, o = qkvo[..., 2 * dim :].chunk(2, -1)
        heads = qkvo[..., : 3 * dim].flatten(1, 2).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        rotations = map_rotations(height, width, dim // self.num_heads, x.device)
        out = self.attend(*heads.unbind(0), rotations)
        out = out.transpose(1, 2).flatten(2).unflatten(1, (height, width))
        out = out + self.lepe(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.proj(out * o)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"


class _LinearAttention(GatedRotaryAttention):
    """What linear attentions have in common: features of queries and keys, and sums over all positions in float32.

    Half precision would overflow, and lose the small differences of long sums.
    """

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(v.dtype, torch.float32)
        with no_autocast(v.device):
            q, k = (F.elu(t.to(dtype)) + 1 for t in (q, k))
            return self.linear_attention(q, k, v.to(dtype), rotations).to(v.dtype)

    def linear_attention(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotations: torch.Tensor
    ) -> torch.Tensor:
        """Positive features of queries and keys, and values, as in `attend`."""
        raise NotImplementedError


@register_notrace_module
class RankAugmentedLinearAttention(_LinearAttention):
    """Rank-augmented linear attention (RALA; Fan et al., CVPR 2025, arXiv 2411.07635, section 3).

    Against the low rank of linear attention's sum of keys times values, keys are weighted by a softmax over all
    positions of their product with the mean query; against that of its output, the output is gated. Features are
    elu + 1; they are turned by their positions in the numerator, and not in the normaliser.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C into multiples of 4.
        lepe_kernel: Side of the depthwise convolution of the values, odd.

    Maps `(B, H, W, C)` to `(B, H, W, C)`, any H and W, at a cost that is linear in H * W.
    """

    def linear_attention(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotations: torch.Tensor
    ) -> torch.Tensor:
        weights = (k @ q.mean(2)[..., None] * self.scale).softmax(2)
        norm = q @ (k.mT @ weights) + EPS
        q, k = rotate(q, rotations), rotate(k, rotations)
        return q @ (k.mT @ (weights * v)) / norm


@register_notrace_module
class MagnitudeAwareLinearAttention(_LinearAttention):
    """Magnitude-aware linear attention (MALA; Fan et al., ICCV 2025, arXiv 2507.00698, section 3).

    Where linear attention divides by the sum of a query's products with all keys, so that the query's length has no
    effect, they are scaled and shifted: rows sum to 1, and become sharper as queries grow. Features are elu + 1; they
    are turned by their positions, but not in scale and shift.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C into multiples of 4.
        lepe_kernel: Side of the depthwise convolution of the values, odd.

    Maps `(B, H, W, C)` to `(B, H, W, C)`, any H and W, at a cost that is linear in H * W.
    """

    def linear_attention(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotations: torch.Tensor
    ) -> torch.Tensor:
        total = q @ k.mean(2, keepdim=True).mT * self.scale
        q, k = rotate(q, rotations), rotate(k, rotations)
        scores_v = q @ (k.mT @ v * (self.scale / v.shape[2]))
        return scores_v * (1 + 1 / (total + EPS)) - total * v.mean(2, keepdim=True)
