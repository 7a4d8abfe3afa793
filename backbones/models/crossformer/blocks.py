"""What CrossFormer is made of: convolutions of several scales, attention near and far, and its position bias."""

from __future__ import annotations

from collections import OrderedDict

import torch
from timm.layers import register_notrace_module
from torch import nn

from backbones.layers.attention.relpos import bias_of_offsets, offset_grid
from backbones.layers.attention.window import WindowAttention
from backbones.layers.block import MixerBlock
from backbones.layers.norm import LayerNorm2d
from backbones.ops.sizes import larger, smaller, static_size
from backbones.ops.window import Groups

GROUPINGS = ("classifier", "dense", "dense-2021")


class DynamicPositionBias(nn.Module):
    """Position bias as a function of the offset in the group, learned by an MLP with LayerNorm (section 3.2).

    Args:
        dim: Width of the hidden layers.
        num_heads: Attention heads.
    """

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.proj = nn.Linear(2, dim, **dd)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.LayerNorm(dim, **dd), nn.ReLU(), nn.Linear(dim, out, **dd))
                for out in (dim, dim, num_heads)
            )
        )

    def forward(self, p: int, q: int) -> torch.Tensor:
        """Bias `(heads, P * Q, P * Q)`, query by key, of a group of P x Q positions."""
        bias = self.proj.bias
        table = self.layers(self.proj(offset_grid(p, q, bias.device).to(bias.dtype)))
        return bias_of_offsets(table.permute(2, 0, 1), p, q)


@register_notrace_module
class CrossFormerAttention(WindowAttention):
    """Self-attention among G x G neighbours, or among G x G positions at an interval (section 3.2).

    Where the shorter side of a map is at most G, all of it is one group, or two of them. Maps that the groups do not
    divide are zero-padded below and right, and padding is masked. A program exported for many sizes is for maps that
    are larger than G, or not, like those of its example.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        group_size: G.
        interval: Rows and columns between the positions of a group, 1 for neighbours.
        grouping: How small and large maps are grouped. "classifier": on small maps G is the shorter side; positions are
            taken at the interval in neighbourhoods of `G * interval`. "dense": the same, but G is the longer side.
            "dense-2021": as in "classifier", but positions at the interval of the whole map form a group.

    Maps `(B, H, W, C)` to `(B, H, W, C)`.

    Raises:
        ValueError: Another `grouping`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        group_size: int,
        interval: int = 1,
        grouping: str = "classifier",
        device=None,
        dtype=None,
    ) -> None:
        if grouping not in GROUPINGS:
            raise ValueError(f"grouping must be one of {', '.join(GROUPINGS)}, not {grouping!r}")
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, num_heads, group_size, rel_pos_bias=False, **dd)
        self.interval, self.grouping = interval, grouping
        self.rel_pos = DynamicPositionBias(dim // 16, num_heads, **dd)

    def groups(self, x: torch.Tensor) -> Groups:
        height, width, size = static_size(x.shape[1]), static_size(x.shape[2]), self.window_size[0]
        shorter = smaller(height, width)
        if shorter <= size:
            size = larger(height, width) if self.grouping == "dense" else shorter
            return Groups.of(x, (size, size))
        if self.grouping == "dense-2021" and self.interval > 1:
            sizes = tuple((n + self.interval - 1) // self.interval for n in (height, width))
        else:
            sizes = (size, size)
        return Groups.of(x, sizes, interval=(self.interval, self.interval))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, interval={self.interval}, grouping={self.grouping!r}"


class CrossFormerBlock(MixerBlock):
    """Pre-norm attention and MLP, and a cooling layer after some: depthwise 3x3 convolution and LayerNorm, no residual.

    The cooling layer, from CrossFormer++ (arXiv 2303.06908, section 4.2), keeps activations from growing with depth.

    Args:
        dim, mixer, mlp_ratio, drop_path: As in `MixerBlock`.
        cooling: Whether there is a cooling layer.

    Maps `(B, C, H, W)` to `(B, C, H, W)`.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        cooling: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, mixer, mlp_ratio, drop_path=drop_path, **dd)
        self.cooling = nn.Identity()
        if cooling:
            conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
            self.cooling = nn.Sequential(OrderedDict(conv=conv, norm=LayerNorm2d(dim, **dd)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cooling(super().forward(x))
