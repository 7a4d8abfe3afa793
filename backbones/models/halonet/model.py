"""HaloNet: blocked local self-attention with halos (Vaswani et al., CVPR 2021, arXiv 2103.12731).

- A ResNet whose 3x3 convolutions are attention: the queries of a block share a window of keys, the block and a halo
  around it. Downsampling takes every second query.
- Rows and columns of the window have learned vectors each, multiplied with the query.
- `halonet_26t` and others are hybrids of convolution and attention, of timm's author.

Any image size: what lies outside of the map has keys and values of zero, as at the image's border, and where blocks do
not divide the map too. timm's HaloNets compute the same where blocks divide all maps, and refuse other images.

Differences from the paper: no authors' code is public, so what the paper leaves open is timm's: positions have all of a
head's channels for each axis, where the text allots half to each; the positions' terms are not scaled; padded keys are
not masked; offsets from strided queries count blocks of strided positions; attention is followed by BatchNorm and
activation. H3's last convolution has 1280 channels, which its published size asks for; the paper's table says 1024.
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import ClassifierHead, EcaModule, calculate_drop_path_rates, make_divisible
from torch import nn

from backbones.layers.attention.halo import HaloAttention
from backbones.layers.head import ConvHead
from backbones.layers.init import init_fan_out
from backbones.layers.squeeze_excite import SqueezeExcite
from backbones.models.halonet.blocks import Bottleneck, HaloBottleneck, Stem
from backbones.models.skeleton import HierarchicalModel, Stage

_ACTS = {"silu": nn.SiLU, "relu": nn.ReLU}


class HaloNet(HierarchicalModel):
    """HaloNet, and residual networks that mix convolution and its attention.

    Takes images of any size: positions outside of the map have keys and values of zero, also where blocks do not divide
    it.

    Args:
        layout: The blocks of each stage, a letter each: "A" with attention, "B" with a 3x3 convolution.
        dims: Channels that the stages give.
        widths: Channels of queries and keys, and of convolutions, in each stage; None for `expand_ratio` times the
            block's input.
        expand_ratio: See `widths`.
        num_heads: Heads in each stage.
        head_dim: Channels of a head's queries and keys; None for `qk_ratio * width`, in multiples of 8, over the heads.
        qk_ratio: See `head_dim`.
        value_ratio: Channels of the values over those of queries.
        block_size, halo_size: Side of the blocks of queries, and what their window has more on every side.
        stem_widths, stem_strides, stem_kernel, stem_pool: Of the stem's convolutions; whether max pooling follows.
        group_size: Channels of a group in 3x3 convolutions; None for no groups.
        gate: Of 3x3 convolutions' output: "se", "eca" or None.
        se_ratio: Hidden width of squeeze-excite over the channels, rounded to a multiple of 8.
        linear: Blocks without activation after their sum, see `Bottleneck`.
        head_size: Channels of a 1x1 convolution before pooling; 0 for none.
        act: "silu" or "relu".
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `HierarchicalModel`.

    Raises:
        ValueError: Options that do not exist, or heads that do not divide the channels.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        layout: Sequence[str] = ("AAA", "AAA", "AAAAAAA", "AAA"),
        dims: Sequence[int] = (32, 64, 128, 256),
        widths: Sequence[int] | None = (64, 128, 256, 512),
        expand_ratio: float = 3.0,
        num_heads: Sequence[int] = (4, 8, 8, 8),
        head_dim: int | None = None,
        qk_ratio: float = 1.0,
        value_ratio: float = 1.0,
        block_size: int = 8,
        halo_size: int = 3,
        stem_widths: Sequence[int] = (64,),
        stem_strides: Sequence[int] = (2,),
        stem_kernel: int = 7,
        stem_pool: bool = True,
        group_size: int | None = None,
        gate: str | None = None,
        se_ratio: float = 1 / 16,
        linear: bool = False,
        head_size: int = 0,
        act: str = "silu",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        for name, value, known in (("gate", gate, ("se", "eca", None)), ("act", act, tuple(_ACTS))):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")
        if set("".join(layout)) - set("AB"):
            raise ValueError(f'layout must have a letter "A" or "B" for every block, not {tuple(layout)}')
        dd = {"device": device, "dtype": dtype}
        act_layer = _ACTS[act]

        def attention(stage: int, width: int, stride: int) -> tuple[nn.Module, int]:
            heads, mixed = num_heads[stage], int(width * value_ratio)
            if mixed % heads:
                raise ValueError(f"num_heads {heads} must divide the {mixed} channels of stage {stage}'s values")
            channels = head_dim or make_divisible(width * qk_ratio, 8) // heads
            return HaloAttention(width, mixed, heads, channels, block_size, halo_size, stride, **dd), mixed

        def gated(width: int) -> nn.Module | None:
            if gate == "se":
                return SqueezeExcite(width, make_divisible(width * se_ratio, 8, round_limit=0.0), **dd)
            return EcaModule(width, **dd) if gate == "eca" else None

        def block(stage: int, letter: str, in_dim: int, stride: int, rate: float) -> nn.Module:
            width = make_divisible(in_dim * expand_ratio, 8) if widths is None else widths[stage]
            options = {"act_layer": act_layer, "linear": linear, "drop_path": rate, **dd}
            if letter == "A":
                mixer, mixed = attention(stage, width, stride)
                return HaloBottleneck(in_dim, dims[stage], width, mixer, mixed, stride, **options)
            groups = width // group_size if group_size else 1
            conv = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False, **dd)
            return Bottleneck(in_dim, dims[stage], width, conv, width, stride, gated(width), **options)

        stem = Stem(in_chans, stem_widths, stem_strides, stem_kernel, stem_pool, act_layer, **dd)
        stages, in_dim = [], stem_widths[-1]
        all_rates = calculate_drop_path_rates(drop_path_rate, [len(letters) for letters in layout], stagewise=True)
        for i, (letters, rates) in enumerate(zip(layout, all_rates)):
            blocks = []
            for j, (letter, rate) in enumerate(zip(letters, rates)):
                stride = 1 if j else 2 if i else 4 // stem.reduction
                blocks.append(block(i, letter, in_dim, stride, rate))
                in_dim = dims[i]
            stages.append(Stage(blocks))
        options = {"pool_type": global_pool, "drop_rate": drop_rate, **dd}
        super().__init__(
            stem=stem,
            stages=stages,
            dims=dims,
            head=ConvHead(dims[-1], num_classes, head_size, act_layer=act_layer, **options)
            if head_size
            else ClassifierHead(dims[-1], num_classes, **options),
            num_classes=num_classes,
            in_chans=in_chans,
        )

    def _init_weights(self, module: nn.Module, name: str) -> None:
        if isinstance(module, nn.Conv2d):
            init_fan_out(module)
        elif isinstance(module, nn.Linear):
            if name == "head.fc":
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif name.endswith(".conv3.norm") and self.get_submodule(name.removesuffix(".conv3.norm")).has_skip:
            nn.init.zeros_(module.weight)  # blocks begin as their shortcut
