"""The inverted residual block, and convolution and pooling with TensorFlow's "same" padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath, register_notrace_module
from torch import nn

from backbones._compat import is_plain_eager
from backbones.layers.pointwise import GELUTanh
from backbones.layers.squeeze_excite import SqueezeExcite
from backbones.ops.chunks import chunkable
from backbones.ops.fusion import fused
from backbones.ops.onednn import conv2d
from backbones.ops.plain import plain
from backbones.ops.sizes import is_symbolic


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding before and after a side: the least that gives ceil(size / stride) outputs, odd one after."""
    total = (size + stride - 1) // stride * stride - stride + kernel_size - size
    return total // 2, total - total // 2


class _PadEnd(torch.autograd.Function):
    """Zeros below and right of a channels-last map; no second pass over the map, and no copy in the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, bottom: int, right: int) -> torch.Tensor:
        b, c, height, width = x.shape
        out = x.new_empty(b, height + bottom, width + right, c).permute(0, 3, 1, 2)
        out[:, :, :height, :width] = x
        out[:, :, height:] = 0
        out[:, :, :height, width:] = 0
        return out

    @staticmethod
    def setup_context(ctx, inputs: tuple[torch.Tensor, int, int], output: torch.Tensor) -> None:
        ctx.size = inputs[0].shape[2:]

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        height, width = ctx.size
        return grad[:, :, :height, :width], None, None


@plain()
@register_notrace_module
class Conv2dSame(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, which depends on the input's size where the stride is above 1.

    Args:
        in_channels, out_channels, groups, bias: As in `nn.Conv2d`.
        kernel_size: Side of the kernel, at least the stride.
        stride: Step, pixels.

    Maps `(B, C, H, W)` to `(B, D, ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        if kernel_size < stride:
            raise ValueError(f"kernel_size {kernel_size} must not be smaller than stride {stride}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, groups=groups, bias=bias, device=device, dtype=dtype
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_with(x, self.weight, self.bias)

    def forward_with(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str | None = None
    ) -> torch.Tensor:
        """See `backbones.ops.fusion.Product`."""
        top, bottom = self._padding(x.shape[2], 0)
        left, right = self._padding(x.shape[3], 1)
        padding = (0, 0)
        if is_symbolic(top, left):
            x = F.pad(x, (left, right, top, bottom))
        else:
            padding = (bottom, right)
            if (top, left) != padding:
                if self.groups > 1 and not torch.is_grad_enabled():
                    # Zeros before a depthwise kernel move it as padding would, without a copy of the widest maps.
                    # (Not in training: the gradient of even kernels is slow.)
                    weight = F.pad(weight, (right - left, 0, bottom - top, 0))
                elif top == left == 0 and x.device.type == "cpu" and is_plain_eager():
                    x, padding = _PadEnd.apply(x, bottom, right), (0, 0)
                else:
                    x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        return conv2d(x, weight, bias, self.stride, padding, groups=self.groups, act=act)

    def _padding(self, size: int, axis: int) -> tuple[int, int]:
        if self.stride[axis] == 1:  # known without the size, which may be symbolic
            size = 1
        elif torch.jit.is_tracing():
            size = int(size)
        return same_padding(size, self.kernel_size[axis], self.stride[axis])


@plain(row_local=False)
@register_notrace_module
class AvgPool2dSame(nn.Module):
    """Average pooling by 2 with TensorFlow's "same" padding: on odd sides the last cells average the pixels there are.

    Maps `(B, C, H, W)` to `(B, C, ceil(H / 2), ceil(W / 2))`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        if is_symbolic(height, width):
            # Repeating the last row of an odd side does not change its average, and suits both parities.
            for axis, size in ((2, height), (3, width)):
                index = torch.arange((size + 1) // 2 * 2, device=x.device).clamp(max=size - 1)
                x = x.index_select(axis, index).unflatten(axis, ((size + 1) // 2, 2)).mean(axis + 1)
            return x
        return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


@plain(row_local=False)
class MBConvShortcut(nn.Module):
    """Where the shape changes: average pooling by `stride`, then a 1x1 convolution where the width changes."""

    def __init__(self, in_dim: int, dim: int, stride: int = 1, device=None, dtype=None) -> None:
        super().__init__()
        self.pool = AvgPool2dSame() if stride == 2 else nn.Identity()
        self.expand = nn.Conv2d(in_dim, dim, 1, device=device, dtype=dtype) if in_dim != dim else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.expand(self.pool(x))


@register_notrace_module
class MBConv(nn.Module):
    """Pre-norm inverted residual block with squeeze-excite (MaxViT, arXiv 2204.01697, section 3.3 and appendix).

    BatchNorm, 1x1 expansion, BatchNorm, GELU, 3x3 depthwise convolution with the stride, BatchNorm, GELU,
    squeeze-excite, 1x1 projection; added to the shortcut of the raw input. GELU is the tanh form; squeeze-excite has
    SiLU inside.

    Args:
        in_dim: Channels in.
        dim: Channels out, C.
        stride: 1 or 2.
        expand_ratio: Inner width over C.
        se_ratio: Hidden width of squeeze-excite over C.
        norm_eps, norm_momentum: Of the BatchNorms.
        drop_path: Stochastic depth rate.

    Maps `(B, C_in, H, W)` to `(B, C, ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        stride: int = 1,
        expand_ratio: float = 4.0,
        se_ratio: float = 0.25,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, not {stride}")
        dd = {"device": device, "dtype": dtype}
        norm = {"eps": norm_eps, "momentum": norm_momentum, **dd}
        inner = int(dim * expand_ratio)
        self.shortcut = MBConvShortcut(in_dim, dim, stride, **dd)
        self.pre_norm = nn.BatchNorm2d(in_dim, **norm)
        self.conv1_1x1 = Conv2dSame(in_dim, inner, 1, bias=False, **dd)
        self.norm1 = nn.BatchNorm2d(inner, **norm)
        self.act1 = GELUTanh()
        self.conv2_kxk = Conv2dSame(inner, inner, 3, stride, groups=inner, bias=False, **dd)
        self.norm2 = nn.BatchNorm2d(inner, **norm)
        self.act2 = GELUTanh()
        self.se = SqueezeExcite(inner, int(dim * se_ratio), act_layer=nn.SiLU, **dd)
        self.conv3_1x1 = Conv2dSame(inner, dim, 1, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    @chunkable(axis=2)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        expand = self.pre_norm, self.conv1_1x1, self.norm1, self.act1
        mix = self.conv2_kxk, self.norm2, self.act2
        return self.shortcut(x) + self.drop_path(fused(*expand, *mix, self.se, self.conv3_1x1)(x))
