"""PATNet: partial convolution meets visual attention (Huang et al., arXiv 2503.03148).

- Partial convolution (FasterNet): a 3x3 convolution of a quarter of the channels is the only spatial one.
- PAT_ch, stages 1 to 3: the untouched channels are gated by their means and standard deviations, all mixed.
- PAT_sf, stage 4: they attend to each other's positions, with a bias for Euclidean distances.
- PAT_sp, in the MLP: half of its output is gated position by position.

Everything is as in the authors' PartialNet (arXiv 2502.01303) without dynamic convolution. Differences from the paper:
settings files switch PAT_sp on for T1 alone, although the papers describe it as part of the network, and the detection
configs build S, M and L with FasterNet's sizes, so which sizes gave the papers' numbers is not known; standard
deviations are unbiased, so that stage 3 needs more than one position (images of 32 pixels); blocks of stage 4 have two
residuals, the others one. No weights are published.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import DropPath, LayerScale2d, calculate_drop_path_rates, get_act_layer
from torch import nn

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.attention.relpos import DistanceBias2d
from backbones.layers.conv.basic import ConvNorm
from backbones.layers.head import ConvHead
from backbones.models.skeleton import HierarchicalModel, Stage


class ChannelGate(nn.Module):
    """Gate every channel by all channels' means and standard deviations, then BatchNorm (PAT_ch; `(B, C, H, W)`)."""

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.mix = nn.Conv2d(dim, dim, (1, 2), bias=False, **dd)
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.gate = nn.Hardsigmoid()
        self.norm2 = nn.BatchNorm2d(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        std, mean = torch.std_mean(x, dim=(2, 3), keepdim=True)
        gates = self.gate(self.norm1(self.mix(torch.cat((mean, std), dim=3))))
        return self.norm2(x * gates)


class NormedAttention(nn.Module):
    """LayerNorm over the channels, then attention of all positions with a distance bias (PAT_sf; `(B, C, H, W)`)."""

    def __init__(self, dim: int, num_heads: int, drop: float = 0.0, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.attn = GlobalAttention2d(dim, num_heads, rel_pos=DistanceBias2d(num_heads, **dd), drop=drop, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class PositionGate(nn.Module):
    """Gate the first half of the channels position by position, and mix the second half (PAT_sp; `(B, C, H, W)`)."""

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.split = (dim - dim // 2, dim // 2)
        self.score = nn.Conv2d(self.split[0], 1, 1, bias=False, **dd)
        self.gate = nn.Hardsigmoid()
        self.norm1 = nn.BatchNorm2d(self.split[0], **dd)
        self.norm2 = nn.BatchNorm2d(self.split[1], **dd)
        self.mix = nn.Conv2d(self.split[1], self.split[1], 1, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gated, mixed = x.split(self.split, dim=1)
        gated = self.norm1(gated * self.gate(self.score(gated)))
        return torch.cat((gated, self.mix(self.norm2(mixed))), dim=1)


class PartialMixer(nn.Module):
    """3x3 convolution of the first channels, and `rest` on the others.

    Args:
        dim: Convolved channels.
        rest: Module on the other channels, from map to map of the same shape.
        rest_dim: Their number.
    """

    def __init__(self, dim: int, rest: nn.Module, rest_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.split = (dim, rest_dim)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, bias=False, device=device, dtype=dtype)
        self.rest = rest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, rest = x.split(self.split, dim=1)
        return torch.cat((self.conv(first), self.rest(rest)), dim=1)


class PATBlock(nn.Module):
    """Partial mixer and MLP, with one residual around both or one around each; `(B, C, H, W)` to the same shape.

    Args:
        dim: Channels C.
        mixer: Module from map to map.
        mlp_ratio: Hidden width of the MLP is `int(C * mlp_ratio)`.
        act_layer: Activation of the MLP.
        position_gate: End the MLP with PAT_sp.
        two_residuals: One residual around each of mixer and MLP.
        layer_scale: Initial value of the MLP's layer scale; None for none.
        drop_path: Stochastic depth rate of the MLP.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp_ratio: float,
        act_layer: type[nn.Module],
        position_gate: bool = False,
        two_residuals: bool = False,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        hidden = int(dim * mlp_ratio)
        self.two_residuals = two_residuals
        self.mixer = mixer
        self.fc1 = ConvNorm(dim, hidden, **dd)
        self.act = act_layer()
        self.fc2 = nn.Conv2d(hidden, dim, 1, bias=False, **dd)
        self.gate = PositionGate(dim, **dd) if position_gate else nn.Identity()
        self.ls = LayerScale2d(dim, layer_scale, **dd) if layer_scale is not None else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mixer(x)
        if self.two_residuals:
            x = y = x + y
        return x + self.drop_path(self.ls(self.gate(self.fc2(self.act(self.fc1(y))))))


class PATNet(HierarchicalModel):
    """Partial visual attention network. Strided convolutions do not pad: odd sides lose their last row or column.

    Args:
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        n_div: One in `n_div` channels is convolved.
        num_heads: Heads of the last stage's attention.
        channel_gate: Gate the untouched channels of stages 1 to 3.
        position_gate: End the MLPs with PAT_sp.
        mlp_ratio: Hidden width of the MLPs over the channels.
        act_layer: Activation of MLPs and head.
        head_size: Hidden width of the head.
        layer_scale: Initial value of the layer scale, None for none.
        attn_drop_rate: Dropout of attention weights and outputs; the authors train with 0.1.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.
    """

    normal_layers = (nn.Conv2d, nn.Linear)

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (1, 2, 8, 2),
        n_div: int = 4,
        num_heads: int = 4,
        channel_gate: bool = True,
        position_gate: bool = False,
        mlp_ratio: float = 2.0,
        act_layer: str = "gelu",
        head_size: int = 1280,
        layer_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        act = get_act_layer(act_layer)

        def mixer(i: int) -> nn.Module:
            dim = dims[i] // n_div
            rest_dim = dims[i] - dim
            rest = nn.Identity()
            if i == len(dims) - 1:
                rest = NormedAttention(rest_dim, num_heads, attn_drop_rate, **dd)
            elif channel_gate:
                rest = ChannelGate(rest_dim, **dd)
            return PartialMixer(dim, rest, rest_dim, **dd)

        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            form = {"position_gate": position_gate, "two_residuals": i == len(dims) - 1, "layer_scale": layer_scale}
            blocks = [PATBlock(dims[i], mixer(i), mlp_ratio, act, **form, drop_path=rate, **dd) for rate in rates]
            downsample = ConvNorm(dims[i - 1], dims[i], 2, stride=2, padding=0, **dd) if i else None
            stages.append(Stage(blocks, downsample))
        super().__init__(
            stem=ConvNorm(in_chans, dims[0], 4, stride=4, padding=0, **dd),
            stages=stages,
            dims=dims,
            head=ConvHead(
                dims[-1],
                num_classes,
                head_size,
                global_pool,
                drop_rate,
                act_layer=act,
                norm=False,
                pool_first=True,
                **dd,
            ),
            num_classes=num_classes,
            in_chans=in_chans,
        )
