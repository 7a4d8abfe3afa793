"""Attention by a Gaussian kernel, through landmarks and a matrix inverse by Newton's method."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.pointwise import Linear
from backbones.ops.autocast import no_autocast
from backbones.ops.cache import shape_cache
from backbones.ops.sizes import larger, pad_map, static_size

RIDGE = 0.01  # added to the diagonal of the landmarks' kernel


class HeadwiseConv2d(nn.Conv2d):
    """Depthwise K x K convolution, "same" padding, with one kernel for all channels of a head, without bias.

    Args:
        num_heads: Heads; the kernels are `(heads, 1, K, K)`.
        kernel_size: K, odd.

    Maps `(B, C, H, W)`, any multiple C of the heads, to the same shape.
    """

    def __init__(self, num_heads: int, kernel_size: int, device=None, dtype=None) -> None:
        super().__init__(
            num_heads,
            num_heads,
            kernel_size,
            padding=kernel_size // 2,
            groups=num_heads,
            bias=False,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dim = static_size(x.shape[1])
        weight = self.weight.repeat_interleave(dim // self.out_channels, dim=0)
        return F.conv2d(x, weight, padding=self.padding, groups=dim)


@register_notrace_module
class SoftmaxFreeAttention(nn.Module):
    """Softmax-free attention (SOFT; Lu et al., NeurIPS 2021, arXiv 2110.11945, section 3).

    The weight of two positions is `exp(-|q_i - q_j|^2 / (2 sqrt(c)))`: queries are keys, and weights are not divided by
    their sum. With P the weights of positions and landmarks, and M those among landmarks, all weights are approximated
    by `P M^-1 P^T` (Nystrom), so none of them is computed between positions. Landmarks are a strided convolution of the
    queries. A depthwise convolution of the values is added.

    The inverse takes 20 steps of Newton's method, and is what they reach: of a matrix that is nearly singular, that is
    less than its inverse. It is computed in float32 at least, as are the weights and the sums over positions.

    Args:
        dim: Channels C.
        num_heads: Heads of c channels; must divide C.
        ratio: Side and stride of the landmarks' convolution. Positions at the right and bottom that it does not reach
            are in no landmark; a map that is smaller is zero-padded.
        kernel_size: Side of the values' convolution, odd.
        inverse: A name of `INVERSES`: "ridge" (SOFT), "normalized" (SOFT++; Lu et al., IJCV 2024, arXiv 2207.03341), or
            "plain", which SOFT's weights of 2021 were trained with.

    Maps `(B, H, W, C)` to `(B, H, W, C)`, any H and W.

    Raises:
        ValueError: `num_heads` does not divide C, `kernel_size` is even, or the inverse unknown.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ratio: int,
        kernel_size: int = 5,
        inverse: str = "ridge",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        if inverse not in INVERSES:
            raise ValueError(f"inverse must be one of {', '.join(INVERSES)}, not {inverse!r}")
        dd = {"device": device, "dtype": dtype}
        width = dim // num_heads
        self.num_heads = num_heads
        self.ratio = ratio
        self.inverse = inverse
        self.qv = Linear(dim, 2 * dim, **dd)
        self.reduce = nn.Conv2d(width, width, ratio, stride=ratio, bias=False, **dd)
        self.norm = nn.LayerNorm(width, **dd)
        self.act = nn.GELU()
        self.local_conv = HeadwiseConv2d(num_heads, kernel_size, **dd)
        self.proj = Linear(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dim = x.shape[-1]
        qv = self.qv(x)
        q, v = qv.unflatten(-1, (2, self.num_heads, -1)).permute(3, 0, 4, 1, 2, 5).unbind(0)  # (B, heads, H, W, c)
        q = q * static_size(q.shape[-1]) ** -0.25
        out = self.attend(q.flatten(2, 3), self.landmarks(q), v.flatten(2, 3))
        out = out.transpose(1, 2).flatten(2).view(x.shape)
        out = out + self.local_conv(qv[..., dim:].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.proj(out.to(x.dtype))

    def landmarks(self, q: torch.Tensor) -> torch.Tensor:
        """Queries `(B, heads, H, W, c)` to landmarks `(B, heads, H // ratio * W // ratio, c)`."""
        maps = q.flatten(0, 1)
        height, width = (larger(static_size(side), self.ratio) for side in maps.shape[1:3])
        reduced = self.reduce(pad_map(maps, height, width).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.act(self.norm(reduced)).flatten(1, 2).unflatten(0, q.shape[:2])

    def attend(self, q: torch.Tensor, landmarks: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """`P M^-1 P^T v`.

        Args:
            q: `(B, heads, N, c)`, divided by the fourth root of c.
            landmarks: `(B, heads, L, c)`.
            v: `(B, heads, N, c)`.

        Returns:
            `(B, heads, N, c)`, in float32 at least.
        """
        with no_autocast(q.device):
            dtype = torch.promote_types(v.dtype, torch.float32)
            q, landmarks, v = q.to(dtype), landmarks.to(dtype), v.to(dtype)
            weights = gaussian(q, landmarks)
            inverse = INVERSES[self.inverse](gaussian(landmarks, landmarks))
            return weights @ (inverse @ (weights.mT @ v))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, ratio={self.ratio}, inverse={self.inverse!r}"


def gaussian(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`exp(-|a_i - b_j|^2 / 2)` of `(..., N, c)` and `(..., L, c)`, `(..., N, L)`."""
    a_norms, b_norms = (t.square().sum(-1) / 2 for t in (a, b))
    return (a @ b.mT - a_norms[..., :, None] - b_norms[..., None, :]).exp()


def newton_inverse(m: torch.Tensor, start: torch.Tensor, ridge: float = 0.0, steps: int = 20) -> torch.Tensor:
    """`steps` times `z = 2 z - z m z`, from `z = start * m`: towards the inverse of m (Newton-Schulz).

    The gradient with regard to m is that of an inverse, as in the authors' code of SOFT. In that of SOFT++ it goes
    through the steps, which keeps them all in memory, and is the same where they reach the inverse.

    Args:
        m: `(B, heads, L, L)`, symmetric and positive definite.
        start: What broadcasts to m, below 2 over the square of its largest eigenvalue.
        ridge: Added to the diagonal of m first.
    """
    with torch.no_grad():
        shifted = (m + ridge * _identity(m.shape[-1], m.dtype, m.device) if ridge else m).flatten(0, 1)
        z = start.expand(*m.shape[:2], 1, 1).flatten(0, 1) * shifted
        for _ in range(steps):
            z = torch.baddbmm(z, z @ shifted, z, beta=2, alpha=-1)
        z = z.unflatten(0, m.shape[:2])
    # What is subtracted is zero, but for its gradient.
    return z - z @ (m - m.detach()) @ z if m.requires_grad and torch.is_grad_enabled() else z


def ridge_inverse(m: torch.Tensor) -> torch.Tensor:
    """SOFT's `(M + 0.01 I)^-1` of a kernel M among landmarks, `(B, heads, L, L)`."""
    return newton_inverse(m, 1.8 / m.detach().sum(-1).amax(-1).square()[..., None, None], RIDGE)


def plain_inverse(m: torch.Tensor) -> torch.Tensor:
    """`M^-1` of a kernel M among landmarks, `(B, heads, L, L)`.

    The steps start from a multiple of M that all heads of an image share. In the authors' code all images of the batch
    share it, which makes a difference only where 20 steps do not reach the inverse. They do not where the kernel of all
    heads is about the identity, of a single landmark say: there they reach zero, in the authors' code too.
    """
    return newton_inverse(m, _shared_start(m.detach()))


def normalized_inverse(m: torch.Tensor) -> torch.Tensor:
    """SOFT++'s `D^-1/2 M^-1 D^-1/2` by `plain_inverse`; D has the row sums of M."""
    scale = m.sum(-1).rsqrt()
    return scale[..., :, None] * plain_inverse(m) * scale[..., None, :]


def _shared_start(m: torch.Tensor) -> torch.Tensor:
    """`(B, 1, 1, 1)`: 2 over the largest squared row sum, halved until columns of `|I - a M M|` sum to 1.01 at most."""
    sums = m.sum(-1)
    squares = m.square().sum(-2)  # of M M, whose entries are positive: the diagonal, and what else is in a column
    others = (sums[..., None, :] @ m).squeeze(-2) - squares
    a = 2 / sums.amax((1, 2)).square()[:, None, None]
    for _ in range(10):
        largest = ((1 - a * squares).abs() + a * others).amax((1, 2), keepdim=True)
        a = torch.where(largest > 1.01, a / 2, a)
    return a[..., None]


@shape_cache()
def _identity(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.eye(size, dtype=dtype, device=device)


INVERSES = {"ridge": ridge_inverse, "plain": plain_inverse, "normalized": normalized_inverse}
