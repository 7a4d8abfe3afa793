"""Context-mixing dynamic convolution: kernels made of every position's affinities to regions of a context map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath, register_notrace_module
from torch import nn

from backbones.layers.conv.basic import ConvMlp, ConvNorm, ResidualDepthwiseConv
from backbones.layers.conv.reparam import DilatedReparamConv
from backbones.layers.norm import ChannelAffine, LayerNorm2d
from backbones.layers.squeeze_excite import SqueezeExcite
from backbones.ops.neighborhood import neighborhood_av, neighborhood_bias
from backbones.ops.plain import is_plain
from backbones.ops.sizes import static_size


@register_notrace_module
class ContMix(nn.Module):
    """The dynamic convolution itself (OverLoCK, arXiv 2502.20087, section 3).

    Every position and head gets two kernels, S x S and K x K. Their logits are a linear map of the position's
    affinities to a grid of context regions, plus a position bias; a softmax over the taps makes weights of them. The
    first half of the value channels is mixed by the small kernel, the second half by the large one, over windows that
    are shifted inwards at borders as in neighborhood attention.

    Args:
        dim: Channels C of query and value; must be a multiple of `2 * num_heads`.
        context_dim: Channels of the context map; C if None.
        num_heads: Heads G, each with C / 2G channels of query and key and of either half of the value.
        kernel_size: K, odd.
        small_kernel_size: S, odd.
        grid_size: The context is pooled to `grid_size` x `grid_size` regions.
        value_proj: Project the value (1x1 convolution and BatchNorm) instead of taking it as it comes.
        bias_std: Standard deviation of the initial position bias tables.

    Raises:
        ValueError: Widths or kernel sizes that do not fit.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        num_heads: int = 4,
        kernel_size: int = 13,
        small_kernel_size: int = 5,
        grid_size: int = 7,
        value_proj: bool = False,
        bias_std: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"dim {dim} must be a multiple of 2 * num_heads = {2 * num_heads}")
        if kernel_size % 2 == 0 or small_kernel_size % 2 == 0 or small_kernel_size > kernel_size:
            raise ValueError(
                f"kernel sizes must be odd and the small one at most the large one, not {small_kernel_size} and"
                f" {kernel_size}"
            )
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.small_kernel_size = small_kernel_size
        self.grid_size = grid_size
        self.bias_std = bias_std
        # The published models scale by the width of G heads over all C channels, though a head has C / 2G of them.
        self.scale = (dim // num_heads) ** -0.5
        self.query = ConvNorm(dim, dim // 2, **dd)
        self.key = ConvNorm(context_dim or dim, dim // 2, **dd)
        self.value = ConvNorm(dim, dim, **dd) if value_proj else nn.Identity()
        self.kernel_proj = nn.Linear(grid_size**2, small_kernel_size**2 + kernel_size**2, **dd)
        small, large = 2 * small_kernel_size - 1, 2 * kernel_size - 1
        self.rpb1 = nn.Parameter(torch.empty(num_heads, small, small, **dd))
        self.rpb2 = nn.Parameter(torch.empty(num_heads, large, large, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.rpb1, self.rpb2):
            nn.init.trunc_normal_(table, std=self.bias_std) if self.bias_std else nn.init.zeros_(table)

    def forward(
        self, query: torch.Tensor, context: torch.Tensor | None = None, value: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mix `value` with kernels that `query` draws from `context`.

        Args:
            query: `(B, C, H, W)`.
            context: `(B, context_dim, H, W)`; the query map if None.
            value: `(B, C, H, W)`; the query map if None.

        Returns:
            `(B, C, H, W)`. A map with a side shorter than K is resized (bilinear) until that side is K, and the result
            is average-pooled back, as the published models do.
        """
        height, width = query.shape[2:]
        size = fit_size(height, width, self.kernel_size)
        resized = size != (height, width)
        if resized:
            query, context, value = (
                None if m is None else F.interpolate(m, size=size, mode="bilinear") for m in (query, context, value)
            )
        context = query if context is None else context
        value = self.value(query if value is None else value)

        small, large = self._kernels(query, context)
        # (B, H, W, 2, G, c): halves, heads, channels.
        value = value.permute(0, 2, 3, 1).unflatten(-1, (2, self.num_heads, -1))
        mixed = [
            neighborhood_av(kernel, half.permute(0, 3, 1, 2, 4), kernel_size).permute(0, 2, 3, 1, 4)
            for kernel, half, kernel_size in zip(
                (small, large), value.unbind(3), (self.small_kernel_size, self.kernel_size)
            )
        ]
        out = torch.stack(mixed, dim=3).flatten(3).permute(0, 3, 1, 2)
        return F.adaptive_avg_pool2d(out, (height, width)) if resized else out

    def _kernels(self, query: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised kernels `(B, G, H, W, S * S)` and `(B, G, H, W, K * K)`."""
        height, width = query.shape[2:]
        heads = self.num_heads
        q = self.query(query).flatten(2).unflatten(1, (heads, -1)).transpose(2, 3).contiguous()
        k = self.key(F.adaptive_avg_pool2d(context, self.grid_size)).flatten(2).unflatten(1, (heads, -1))
        # q (B, G, H * W, c), k (B, G, c, regions)
        k = k * self.scale
        taps = [self.small_kernel_size**2, self.kernel_size**2]
        if is_plain(self.kernel_proj):
            # A linear map of the affinities is one of the keys: a third of the operations, and no affinity is stored.
            logits = [q @ (k @ weight.t()) for weight in self.kernel_proj.weight.split(taps)]
            offsets = self.kernel_proj.bias.split(taps)
        else:
            logits, offsets = self.kernel_proj(q @ k).split(taps, dim=-1), (0, 0)
        kernels = []
        for logit, offset, table, kernel_size in zip(
            logits, offsets, (self.rpb1, self.rpb2), (self.small_kernel_size, self.kernel_size)
        ):
            bias = neighborhood_bias(table, height, width, kernel_size) + offset
            logit = logit.unflatten(2, (height, width)) + bias.to(logit.dtype)
            kernels.append(logit.softmax(dim=-1).to(logit.dtype))
        return kernels[0], kernels[1]

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, kernel_size={self.kernel_size}"


def fit_size(height: int, width: int, kernel: int) -> tuple[int, int]:
    """The size, at about the same aspect ratio, at which a map's shorter side holds a window of `kernel` positions."""
    height, width = static_size(height), static_size(width)
    if height >= kernel and width >= kernel:
        return height, width
    # Division before multiplication, then truncation: the rounding of the published models.
    if height < width:
        return kernel, max(int(kernel / height * width), kernel)
    return max(int(kernel / width * height), kernel), kernel


class GatedContMix(nn.Module):
    """ContMix beside a re-parameterised large-kernel convolution, under a gate (OverLoCK, section 3).

    Args:
        dim: Channels C.
        context_dim: Channels of the context map; C if None.
        out_dim: Channels of the output; C if None.
        num_heads, kernel_size, small_kernel_size, value_proj, bias_std: As in `ContMix`.
        merged: Build the large-kernel convolution in its merged form.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        out_dim: int | None = None,
        num_heads: int = 4,
        kernel_size: int = 13,
        small_kernel_size: int = 5,
        value_proj: bool = False,
        bias_std: float = 0.0,
        merged: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.gate = ConvNorm(dim, dim, **dd)
        self.gate_act = nn.SiLU()
        self.lepe = DilatedReparamConv(dim, kernel_size, merged, **dd)
        self.lepe_norm = nn.BatchNorm2d(dim, **dd)
        self.mix = ContMix(
            dim,
            context_dim,
            num_heads,
            kernel_size,
            small_kernel_size,
            value_proj=value_proj,
            bias_std=bias_std,
            **dd,
        )
        self.out = ConvNorm(dim, dim, **dd)
        self.se = SqueezeExcite(dim, max(16, dim // 8), act_layer=nn.GELU, **dd)
        self.norm = nn.BatchNorm2d(dim, **dd)
        self.proj = nn.Conv2d(dim, out_dim or dim, 1, **dd)

    def forward(
        self, x: torch.Tensor, query: torch.Tensor | None = None, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(B, C, H, W)` to `(B, out_dim, H, W)`; query and context of the kernels are `x` itself where not given."""
        mixed = self.mix(x) if query is None else self.mix(query, context, x)
        y = self.se(self.out(mixed) + self.lepe_norm(self.lepe(x)))
        return self.proj(self.norm(self.gate_act(self.gate(x)) * y))


class ContMixBlock(nn.Module):
    """A residual block around ContMix that draws its kernels from its own input (OverLoCK, arXiv 2502.20087).

    Positional convolution, gated ContMix, positional convolution, convolutional MLP.

    Args:
        dim: Channels C, a multiple of `4 * num_heads`.
        kernel_size: K of the large kernel, one of `reparam.BRANCHES`.
        small_kernel_size: S of the small kernel.
        num_heads: The dynamic convolution has twice as many heads.
        mlp_ratio: Hidden width of the MLP over C.
        res_scale: Put the layer scales on the shortcuts instead of the branches.
        layer_scale: Initial value of both layer scales; None for none.
        drop_path: Stochastic depth rate of both branches.
        merged: Build the large-kernel convolution in its merged form.

    Maps `(B, C, H, W)` to the same shape.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 13,
        small_kernel_size: int = 5,
        num_heads: int = 2,
        mlp_ratio: float = 4.0,
        res_scale: bool = False,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        merged: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.res_scale = res_scale
        self.dwconv1 = ResidualDepthwiseConv(dim, **dd)
        self.norm1 = LayerNorm2d(dim, eps=1e-6, **dd)
        self.mixer = GatedContMix(
            dim,
            num_heads=2 * num_heads,
            kernel_size=kernel_size,
            small_kernel_size=small_kernel_size,
            value_proj=True,
            bias_std=0.02,
            merged=merged,
            **dd,
        )
        self.ls1 = ChannelAffine(dim, layer_scale, **dd) if layer_scale is not None else nn.Identity()
        self.dwconv2 = ResidualDepthwiseConv(dim, **dd)
        self.norm2 = LayerNorm2d(dim, eps=1e-6, **dd)
        self.mlp = ConvMlp(dim, int(dim * mlp_ratio), **dd)
        self.ls2 = ChannelAffine(dim, layer_scale, **dd) if layer_scale is not None else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dwconv1(x)
        x = self._add(x, self.mixer(self.norm1(x)), self.ls1)
        x = self.dwconv2(x)
        return self._add(x, self.mlp(self.norm2(x)), self.ls2)

    def _add(self, shortcut: torch.Tensor, branch: torch.Tensor, scale: nn.Module) -> torch.Tensor:
        if self.res_scale:
            return scale(shortcut) + self.drop_path(branch)
        return shortcut + self.drop_path(scale(branch))
