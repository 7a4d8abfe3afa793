"""Attention of windows to windows of learned place and size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, to_2tuple
from torch import nn

from backbones.layers.attention.relpos import RelativePositionBias2d
from backbones.layers.pointwise import Linear
from backbones.ops.cache import shape_cache
from backbones.ops.sizes import is_symbolic
from backbones.ops.window import Groups, sample_windows, window_attention

CONVENTIONS = ("classifier", "detector", "swin")


@register_notrace_module
class VariedSizeWindowAttention(nn.Module):
    """Queries of P x Q windows attend, in every head, to as many places of a rectangle that the window chooses.

    The mean of the window decides how far the rectangle lies from it and how much larger it is; keys and values are
    read there by bilinear interpolation, and are zero outside of the map. (VSA, arXiv 2204.08446, section 3.2.)

    The authors' three versions differ in how maps are padded that the window does not divide, and in the unit of the
    distance. It is half of the padded map, divided by as many windows as the convention says:

    - "classifier": padded below and right; whole windows in a row of the map for x, in a column for y, at least one.
    - "detector": padded on all sides; the same two numbers, but exchanged.
    - "swin": padded below and right; the windows of the padded map.

    Args:
        dim: Channels C of queries, keys, values and result.
        num_heads: Heads; must divide C.
        window_size: P, or `(P, Q)`.
        in_dim: Channels D of the input; C if None. Logits are divided by the root of D over the heads.
        convention: "classifier", "detector" or "swin".
        qkv_bias: Bias of the projections of the input.

    Maps `(B, H, W, D)` to `(B, H, W, C)`.

    Raises:
        ValueError: Heads that do not divide C, or another convention.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int | tuple[int, int] = 7,
        in_dim: int | None = None,
        convention: str = "classifier",
        qkv_bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        if convention not in CONVENTIONS:
            raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, not {convention!r}")
        dd = {"device": device, "dtype": dtype}
        in_dim = dim if in_dim is None else in_dim
        self.num_heads, self.window_size, self.convention = num_heads, to_2tuple(window_size), convention
        self.scale = max(in_dim // num_heads, 1) ** -0.5
        self.place = Linear(in_dim, 4 * num_heads, **dd)  # of each head: distance in x and y, growth in x and y
        self.q = Linear(in_dim, dim, bias=qkv_bias, **dd)
        self.kv = Linear(in_dim, 2 * dim, bias=qkv_bias, **dd)
        self.rel_pos = RelativePositionBias2d(num_heads, self.window_size, "bicubic", **dd)
        self.proj = Linear(dim, dim, **dd)

    def set_window_size(self, window_size: int | tuple[int, int]) -> None:
        """Change the window, and resize the bias table to it."""
        self.window_size = to_2tuple(window_size)
        self.rel_pos.set_window_size(self.window_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = Groups.of(x, self.window_size, centred=self.convention == "detector")
        rows, columns = self.places(groups, x)
        k, v = sample_windows(self.kv(x).unflatten(-1, (2, self.num_heads, -1)), rows, columns)
        q = groups.cut(groups.pad(self.q(x))).unflatten(-1, (self.num_heads, -1))
        out = window_attention(q, k, v, self.rel_pos(*self.window_size), scale=self.scale)
        return self.proj(groups.crop(groups.join(out.flatten(3))))

    def places(self, groups: Groups, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where keys and values are: rows `(B, G, heads, P)` and columns `(B, G, heads, Q)` of a map, pixels."""
        means = groups.cut(groups.pad(x)).mean(2)
        chosen = self.place(F.leaky_relu(means))
        chosen = chosen.to(torch.promote_types(chosen.dtype, torch.float32)).unflatten(-1, (self.num_heads, 2, 2))
        listed = groups if is_symbolic(*groups.padded) else groups._replace(batch=1)
        places = []
        for axis, (centres, steps) in enumerate(_nominal(listed, x.device)):
            distance, growth = chosen[..., 0, 1 - axis], chosen[..., 1, 1 - axis]  # x comes first
            centre = centres[:, None] + distance * self._unit(groups, axis, x.device)
            places.append(centre[..., None] + (1 + growth[..., None]) * steps)
        return places[0], places[1]

    def _unit(self, groups: Groups, axis: int, device: torch.device) -> float | torch.Tensor:
        """Pixels of a distance of one."""
        if self.convention == "swin":
            return (groups.padded[axis] - 1) / (2 * groups.count[axis])
        of = 1 - axis if self.convention == "detector" else axis
        windows = (groups.height, groups.width)[of] // groups.size[of]
        if is_symbolic(windows):  # as a tensor: symbolic maxima and quotients take minutes to simplify
            windows = torch.full((), windows, dtype=torch.float32, device=device).clamp(min=1)
        else:
            windows = max(windows, 1)
        return (groups.padded[axis] - 1) / (2 * windows)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, window_size={self.window_size}, convention={self.convention!r}"


@shape_cache()
def _nominal(groups: Groups, device: torch.device) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """For rows, then for columns: `(B * G,)` centre of every window on its map, and `(P,)` steps from it, pixels."""
    rows, columns = groups.count
    window = torch.arange(groups.batch * rows * columns, device=device) % (rows * columns)
    places = []
    for number, size, before in zip((window // columns, window % columns), groups.size, groups.before):
        steps = torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2
        places.append((number * size + ((size - 1) / 2 - before), steps))
    return tuple(places)
