"""Token mixers by name, for the hosts that take any of them: `models/deit.py`, `swin.py`, `pvt.py`, `cswin.py`.

A mixer maps `(B, H, W, C)` to `(B, H, W, C)`, any H and W. Its factory, such as the layer's class, is called with

- `dim` and `num_heads`: channels C and heads,

and with those of the following that its signature has:

- `map_size`: `(H, W)` of the maps of images of the host's `img_size`, which tables and windows are made for. A mixer
  whose tables follow it has a method `set_map_size(map_size)`; any other keeps what it was made with.
- `block`: Number of the block in its stage, for what alternates.
- `num_prefix_tokens`: Tokens P in front of the map, where the host has some (DeiT's class token). The mixer that is
  made then maps tokens `(B, P + H * W, C)` and the grid `(H, W)` to tokens. A host gives no prefix tokens to mixers
  whose factory does not ask for their number.
- `device`, `dtype`: Of the parameters.

What else the signature has are the mixer's options.
"""

from __future__ import annotations

import difflib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from backbones.layers.attention.agent import AgentAttention
from backbones.layers.attention.channel import ChannelAttention
from backbones.layers.attention.gated_positional import GatedPositionalAttention2d
from backbones.layers.attention.global_attention import GlobalAttention2d, TokenAttention
from backbones.layers.attention.halo import HaloAttention
from backbones.layers.attention.inline import InLineAttention, TokenInLineAttention
from backbones.layers.attention.linear_attention import MagnitudeAwareLinearAttention, RankAugmentedLinearAttention
from backbones.layers.attention.neighborhood import NeighborhoodAttention2d
from backbones.layers.attention.reduction import SpatialReductionAttention
from backbones.layers.attention.relu_linear import ReLULinearAttention
from backbones.layers.attention.routing import BiLevelRoutingAttention
from backbones.layers.attention.softmax_free import SoftmaxFreeAttention
from backbones.layers.attention.stripe import CrossShapedAttention
from backbones.layers.attention.super_token import SuperTokenAttention
from backbones.layers.attention.varied_window import VariedSizeWindowAttention
from backbones.layers.attention.window import (
    CosineWindowAttention,
    FittedWindowAttention,
    GridAttention,
    ShiftedWindowAttention,
    fitted_window,
)
from backbones.layers.pointwise import Linear
from backbones.layers.spectral import SpectralGating

MapSize = tuple[int, int]


def softmax(
    dim: int, num_heads: int, num_prefix_tokens: int | None = None, qkv_bias: bool = True, device=None, dtype=None
) -> nn.Module:
    """Attention of every token to all others (ViT)."""
    kind = GlobalAttention2d if num_prefix_tokens is None else TokenAttention
    return kind(dim, num_heads, qkv_bias, device=device, dtype=dtype)


def window(dim: int, num_heads: int, map_size: MapSize, window_size: int = 7, device=None, dtype=None) -> nn.Module:
    """Windows that are not shifted."""
    return FittedWindowAttention(dim, num_heads, map_size, window_size, device=device, dtype=dtype)


def shifted_window(
    dim: int,
    num_heads: int,
    map_size: MapSize,
    block: int = 0,
    window_size: int = 7,
    fit: bool = True,
    device=None,
    dtype=None,
) -> nn.Module:
    """Windows, shifted in every other block (Swin). Without `fit`, they are so on small maps too, as in detectors."""
    if not fit:
        return ShiftedWindowAttention(
            dim, num_heads, window_size, window_size // 2 if block % 2 else 0, device=device, dtype=dtype
        )
    return FittedWindowAttention(
        dim, num_heads, map_size, window_size, shifted=block % 2 == 1, device=device, dtype=dtype
    )


def cosine_window(
    dim: int, num_heads: int, map_size: MapSize, block: int = 0, window_size: int = 8, device=None, dtype=None
) -> nn.Module:
    """Scaled cosines in windows, shifted in every other block (Swin V2)."""
    size, shift = fitted_window(map_size, window_size)
    return CosineWindowAttention(dim, num_heads, size, shift if block % 2 else 0, device=device, dtype=dtype)


def dilated_neighborhood(
    dim: int, num_heads: int, map_size: MapSize, block: int = 0, kernel_size: int = 7, device=None, dtype=None
) -> nn.Module:
    """Neighborhoods, in every other block dilated as far as the map allows (DiNAT)."""
    dilation = max(1, min(map_size) // kernel_size) if block % 2 else 1
    return NeighborhoodAttention2d(dim, num_heads, kernel_size, dilation, device=device, dtype=dtype)


def bi_level_routing(
    dim: int, num_heads: int, map_size: MapSize, n_win: int = 7, topk: int = 4, device=None, dtype=None
) -> nn.Module:
    """Regions that pick regions (BiFormer), no more of them than positions."""
    n_win = min(n_win, *map_size)
    return BiLevelRoutingAttention(dim, num_heads, n_win, min(topk, n_win**2), device=device, dtype=dtype)


def super_token(
    dim: int, num_heads: int, map_size: MapSize, cells: int = 7, num_iters: int = 1, device=None, dtype=None
) -> nn.Module:
    """Super tokens, `cells` a side of the map (STViT)."""
    return SuperTokenAttention(dim, num_heads, max(1, min(map_size) // cells), num_iters, device=device, dtype=dtype)


def softmax_free(
    dim: int,
    num_heads: int,
    map_size: MapSize,
    landmarks: int = 7,
    inverse: str = "ridge",
    device=None,
    dtype=None,
) -> nn.Module:
    """A Gaussian kernel through landmarks, `landmarks` a side of the map (SOFT)."""
    ratio = max(1, min(map_size) // landmarks)
    kernel_size = max(3, ratio // 2 * 2 + 1)  # 9, 5 and 3 as in SOFT
    return SoftmaxFreeAttention(dim, num_heads, ratio, kernel_size, inverse, device=device, dtype=dtype)


def cross_shaped(
    dim: int, num_heads: int, stripe_width: int = 7, qkv_bias: bool = True, device=None, dtype=None
) -> nn.Module:
    """Vertical and horizontal stripes (CSWin); 0 for the whole map, with the same local position encoding."""
    if not stripe_width:
        return GlobalAttention2d(dim, num_heads, qkv_bias, lepe_kernel=3, device=device, dtype=dtype)
    return CrossShapedAttention(dim, num_heads, stripe_width, qkv_bias, device=device, dtype=dtype)


def inline(
    dim: int,
    num_heads: int,
    num_prefix_tokens: int | None = None,
    feature_map: str = "identity",
    lepe: bool = False,
    kernels_from: str = "input",
    device=None,
    dtype=None,
) -> nn.Module:
    """Linear attention that is normalised by a subtraction, and a local term (InLine)."""
    dd = {"device": device, "dtype": dtype}
    if num_prefix_tokens is not None:
        if kernels_from != "input":
            raise ValueError(
                f'in a host of tokens, kernels_from of the mixer "inline" is "input", not {kernels_from!r}'
            )
        return TokenInLineAttention(dim, num_heads, True, feature_map, lepe, num_prefix_tokens, **dd)
    return InLineAttention(dim, num_heads, True, feature_map, lepe, kernels_from, **dd)


def halo(dim: int, num_heads: int, block_size: int = 8, halo_size: int = 3, device=None, dtype=None) -> nn.Module:
    """Blocks of queries with a halo of keys around them (HaloNet), and the output projection of transformers."""
    dd = {"device": device, "dtype": dtype}
    attention = HaloAttention(dim, dim, num_heads, dim // num_heads, block_size, halo_size, qkv_bias=True, **dd)
    return nn.Sequential(OrderedDict(attn=attention, proj=Linear(dim, dim, **dd)))


def spectral(dim: int, num_heads: int, map_size: MapSize, device=None, dtype=None) -> nn.Module:
    """A learned filter in the Fourier domain (SpectFormer), which has no heads."""
    return SpectralGating(dim, map_size, device=device, dtype=dtype)


def varied_window(dim: int, num_heads: int, window_size: int = 7, device=None, dtype=None) -> nn.Module:
    """Windows that choose where, and how far apart, they read keys and values (VSA)."""
    return VariedSizeWindowAttention(dim, num_heads, window_size, convention="swin", device=device, dtype=dtype)


MIXERS: dict[str, Callable[..., nn.Module]] = {
    "softmax": softmax,
    "window": window,
    "shifted_window": shifted_window,
    "cosine_window": cosine_window,
    "varied_window": varied_window,
    "grid": GridAttention,
    "cross_shaped": cross_shaped,
    "spatial_reduction": SpatialReductionAttention,
    "inline": inline,
    "neighborhood": NeighborhoodAttention2d,
    "dilated_neighborhood": dilated_neighborhood,
    "bi_level_routing": bi_level_routing,
    "super_token": super_token,
    "gated_positional": GatedPositionalAttention2d,
    "channel": ChannelAttention,
    "softmax_free": softmax_free,
    "relu_linear": ReLULinearAttention,
    "agent": AgentAttention,
    "rala": RankAugmentedLinearAttention,
    "mala": MagnitudeAwareLinearAttention,
    "halo": halo,
    "spectral": spectral,
}

# One mixer: a name of `MIXERS`, a factory, or a mapping of options with the "name" of either.
Entry = str | Callable[..., nn.Module] | Mapping[str, Any]

_GIVEN = ("map_size", "block", "num_prefix_tokens", "device", "dtype")


@dataclass(frozen=True)
class Mixer:
    """A factory with its options, as hosts call it.

    Attributes:
        name: For messages.
        factory: See the module's docstring.
        options: What the factory is given beyond what the host knows.
    """

    name: str
    factory: Callable[..., nn.Module]
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, entry: Entry) -> Mixer:
        """The mixer that an entry stands for.

        Raises:
            ValueError: An unknown name or option.
        """
        options = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
        factory = options.pop("name", None)
        if isinstance(factory, str):
            if factory not in MIXERS:
                close = difflib.get_close_matches(factory, MIXERS, n=1, cutoff=0.0)
                raise ValueError(f"there is no mixer {factory!r}; the nearest name is {close[0]!r}")
            mixer = cls(factory, MIXERS[factory], options)
        elif callable(factory):
            mixer = cls(getattr(factory, "__name__", repr(factory)), factory, options)
        else:
            raise ValueError(f'a mixer is a name, a factory, or a mapping with a "name", not {entry!r}')
        mixer._check_options()
        return mixer

    def _check_options(self) -> None:
        names, takes_all = _parameters(self.factory)
        known = [name for name in names[2:] if name not in _GIVEN]
        for name in self.options:
            if not takes_all and name not in names[2:]:
                raise ValueError(
                    f"the mixer {self.name!r} has no option {name!r}: it has {', '.join(known) if known else 'none'}"
                )

    @property
    def takes_prefix(self) -> bool:
        """Whether its mixers take tokens in front of the map."""
        return "num_prefix_tokens" in _parameters(self.factory)[0]

    def __call__(self, dim: int, num_heads: int, **given: Any) -> nn.Module:
        """Make a mixer; `given` is what the host knows, see the module's docstring."""
        names, takes_all = _parameters(self.factory)
        given = {name: value for name, value in given.items() if takes_all or name in names}
        return self.factory(dim, num_heads, **{**given, **self.options})


def _parameters(factory: Callable[..., nn.Module]) -> tuple[list[str], bool]:
    """Names of a factory's parameters, and whether it takes any others too."""
    parameters = inspect.signature(factory).parameters.values()
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return [p.name for p in parameters], takes_all


def stage_mixers(mixer: Entry | Sequence[Entry], depth: int) -> list[Mixer]:
    """The mixers of a stage's blocks.

    Args:
        mixer: One for all blocks, or a sequence of one a block, the last of which is repeated.
        depth: Blocks.

    Raises:
        ValueError: As in `Mixer.of`, or more entries than blocks, or none.
    """
    entries = list(mixer) if _is_sequence(mixer) else [mixer]
    if not 1 <= len(entries) <= depth:
        raise ValueError(f"mixer has {len(entries)} entries for a stage of {depth} blocks: {mixer!r}")
    mixers = [Mixer.of(entry) for entry in entries]
    return mixers + mixers[-1:] * (depth - len(mixers))


def model_mixers(mixer: Entry | Sequence[Entry | Sequence[Entry]], depths: Sequence[int]) -> list[list[Mixer]]:
    """The mixers of every stage's blocks.

    Args:
        mixer: One for all stages, or a sequence of one a stage; each as in `stage_mixers`.
        depths: Blocks of the stages.

    Raises:
        ValueError: As in `stage_mixers`, or as many entries as there are no stages.
    """
    stages = list(mixer) if _is_sequence(mixer) else [mixer] * len(depths)
    if len(stages) != len(depths):
        raise ValueError(f"mixer has {len(stages)} entries, and the model {len(depths)} stages: {mixer!r}")
    return [stage_mixers(stage, depth) for stage, depth in zip(stages, depths)]


def set_map_size(blocks: Sequence[nn.Module], map_size: MapSize) -> None:
    """Fit the mixers of blocks (their `attn`) to maps of another size, where they store it."""
    for block in blocks:
        if hasattr(block.attn, "set_map_size"):
            block.attn.set_map_size(map_size)


def _is_sequence(mixer: Any) -> bool:
    return isinstance(mixer, Sequence) and not isinstance(mixer, str)
