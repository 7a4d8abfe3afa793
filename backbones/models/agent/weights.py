"""Agent attention (Han et al., ECCV 2024, arXiv 2312.08874) in four hosts: addresses, key map, variants.

A model is its host, `models/deit.py` and so on, with `AgentAttention` in some of its blocks and the host's own
attention in the others. Files for images of another size load too: what their biases store along rows and columns is
interpolated as the authors do, and so are position embeddings and the windows' tables.

Pitfalls: `agent_pvt_b.yaml` of the authors is PVT-L; in CSWin the published files hold a moving average beside the raw
weights, and it is what they report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from backbones.layers.attention.agent import AgentAttention, resize_lines
from backbones.models.cswin import CSWIN_KEYS, CSwinTransformer, convert_branches
from backbones.models.deit import DeiT
from backbones.models.isotropic import TOKEN_KEYS, resize_position_embedding
from backbones.models.pvt import (
    PVT_KEYS,
    PyramidVisionTransformer,
    join_queries,
    resize_position_embeddings,
)
from backbones.models.registry import DenseForm, Family, Variant, Weights, register_family
from backbones.models.swin import SWIN_BUFFERS, SWIN_KEYS, Swin, convert_swin

_TINY = {"name": "agent", "agent_size": 2}
AGENTS = (3, 4, 7, 7)  # a side, in the stages of the hierarchical hosts
SWIN_POOLS, PVT_POOLS = (9, 12, 14, 7), (12, 16, 28, 28)  # those in the authors' detectors and segmentors

_FAMILY = {
    "paper_name": "Agent Attention: On the Integration of Softmax and Linear Attention",
    "paper_ids": "arXiv:2312.08874",
    "origin_url": "https://github.com/LeapLabTHU/Agent-Attention",
    "license": "unknown",
    "sized": True,
}


def _file(share: str, top1: float, side: int = 224, crop: bool = True, **args: Any) -> Weights:
    """A file; images are squashed to a square in evaluation, and its centre is cut out, or it is the whole."""
    return Weights(
        f"https://cloud.tsinghua.edu.cn/f/{share}/?dl=1",
        input_size=side,
        crop_pct=0.875 if crop else 1.0,
        crop_mode="squash",
        top1=top1,
        args=args,
    )


def _stages(
    kinds: str, softmax: Mapping[str, Any] | None = None, pools: tuple[int, ...] | None = None
) -> tuple[Any, ...]:
    """The mixers of stages whose kinds are those of the authors' `attn_type`.

    Args:
        kinds: A letter a stage: A for agents, B for `softmax`, M for two blocks of agents before those of `softmax`.
        softmax: The host's own mixer.
        pools: Agents a side of each stage in detectors and segmentors.
    """
    mixers = []
    for i, kind in enumerate(kinds):
        agent = {"name": "agent", "agent_size": AGENTS[i], **({"pool_size": pools[i]} if pools else {})}
        mixers.append({"A": agent, "B": softmax, "M": (agent, agent, softmax)}[kind])
    return tuple(mixers)


def _convert(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Biases of agents are of any size of images."""
    for name, module in model.named_modules():
        if isinstance(module, AgentAttention):
            for bias in ("ah", "aw", "ha", "wa", "ac", "ca"):
                value = state_dict.get(f"{name}.{bias}_bias")
                if value is None:
                    continue
                if value.ndim > 3:  # one axis for each dimension of the map, and the agents before or after them
                    value = value[0].flatten(1, -2).transpose(1, 2) if bias[1] == "a" else value[0].flatten(2)
                state_dict[f"{name}.{bias}_bias"] = resize_lines(value, getattr(module, f"{bias}_bias").shape[2])
    return state_dict


# ------------------------------------------------------------------------------------------------------------- DeiT


def _deit(dim: int, agents: int, mixer: Any = None, **weights: Weights) -> Variant:
    mixer = {"name": "agent", "agent_size": agents} if mixer is None else mixer
    return Variant({"dim": dim, "num_heads": dim // 64, "mixer": mixer}, weights)


def _convert_deit(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    return _convert(resize_position_embedding(state_dict, model), model)


_AGENT_9 = {"name": "agent", "agent_size": 9}

register_family(
    Family(
        **_FAMILY,
        model=DeiT,
        key_map=TOKEN_KEYS,
        convert=_convert_deit,
        reduction=16,
        tiny={
            "dim": 32,
            "depth": 4,
            "num_heads": 2,
            "img_size": 64,
            "mixer": (_TINY, "softmax"),
        },
        variants={
            "agent_deit_t": _deit(192, 7, in1k=_file("57e0904221824ee7b7af", 74.9)),
            "agent_deit_s": _deit(
                384,
                7,
                in1k=_file("fdd43304372541db8ea7", 80.5),
                in1k_448=_file("a228f86241c445f1969b", 83.1, 448, img_size=448),
            ),
            "agent_deit_b": _deit(768, 9, (*(_AGENT_9,) * 4, "softmax"), in1k=_file("5115f15fdd7e4ab58fbc", 82.0)),
        },
    )
)

# -------------------------------------------------------------------------------------------------------------- PVT


def _pvt(depths: tuple[int, ...], **weights: Weights) -> Variant:
    return Variant({"depths": depths, "mixer": _stages("AAAA")}, weights)


def _convert_pvt(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    return _convert(resize_position_embeddings(join_queries(state_dict), model), model)


register_family(
    Family(
        **_FAMILY,
        model=PyramidVisionTransformer,
        key_map=PVT_KEYS,
        convert=_convert_pvt,
        dense=DenseForm(norm=None, args={"mixer": _stages("AAAA", pools=PVT_POOLS)}),
        tiny={
            "dims": (16, 16, 32, 32),
            "depths": (1, 1, 1, 1),
            "num_heads": (2, 2, 2, 4),
            "mlp_ratios": (2, 2, 2, 2),
            "img_size": 64,
            "mixer": _TINY,
        },
        variants={
            "agent_pvt_t": _pvt((2, 2, 2, 2), in1k=_file("13fdf0e0a7c5498c934f", 78.4)),
            "agent_pvt_s": _pvt((3, 4, 6, 3), in1k=_file("36b8be9a8863456685a3", 82.2)),
            "agent_pvt_m": _pvt(
                (3, 4, 18, 3),
                in1k=_file("4d00ecacf18b45f9b88c", 83.4),
                in1k_256=_file("654df734121643b19c52", 83.8, 256, img_size=256),
            ),
            "agent_pvt_l": _pvt((3, 8, 27, 3), in1k=_file("040cfe0cfbbe4762ad09", 83.7)),
        },
    )
)

# ------------------------------------------------------------------------------------------------------------- Swin


def _convert_swin(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    return _convert(convert_swin(state_dict, model), model)


def _windows(size: int) -> dict[str, Any]:
    return {"name": "shifted_window", "window_size": size}


def _swin(name: str, kinds: str, dim: int, depths: tuple[int, ...], weights: dict[str, Weights]) -> None:
    """Register a size, whose form in detectors is its own: there, windows of small maps are shifted too."""
    args = {"dim": dim, "depths": depths, "num_heads": tuple(dim // 32 * 2**i for i in range(4))}
    tiny = {"A": _TINY, "B": _windows(3), "M": (_TINY, _windows(3))}
    register_family(
        Family(
            **_FAMILY,
            model=Swin,
            key_map=SWIN_KEYS,
            drop_keys=SWIN_BUFFERS,
            convert=_convert_swin,
            dense=DenseForm(
                keys=r"^norm(\d)\.", args={"mixer": _stages(kinds, {**_windows(7), "fit": False}, SWIN_POOLS)}
            ),
            tiny={
                "dim": 16,
                "depths": (1, 1, 2, 1),
                "num_heads": (1, 2, 2, 4),
                "img_size": 64,
                "mixer": tuple(tiny[kind] for kind in kinds),
            },
            variants={name: Variant({**args, "mixer": _stages(kinds, _windows(7))}, weights)},
        )
    )


_swin("agent_swin_t", "AAAB", 96, (2, 2, 6, 2), {"in1k": _file("a2ddc1190c224f768a41", 82.6)})
_swin(
    "agent_swin_s",
    "AABB",
    96,
    (2, 2, 18, 2),
    {
        "in1k": _file("f607172c9fea4d6e99bb", 83.7),
        "in1k_288": _file(
            "09760394e93b4046a25e", 84.1, 288, crop=False, img_size=288, mixer=_stages("AABB", _windows(9))
        ),
    },
)
_swin(
    "agent_swin_b",
    "AAMB",
    128,
    (2, 2, 18, 2),
    {
        "in1k": _file("4fcd2d0114bb490483c3", 84.0),
        "in1k_384": _file(
            "bb84ee9058954706a557", 84.9, 384, crop=False, img_size=384, mixer=_stages("AAMB", _windows(12))
        ),
    },
)

# ------------------------------------------------------------------------------------------------------------ CSwin


def _cswin_mixer(stripe_width: int) -> tuple[Any, ...]:
    stripes = ({"name": "cross_shaped", "stripe_width": width} for width in (stripe_width, 0))
    return *_stages("AA"), *stripes


def _cswin(dim: int, depths: tuple[int, ...], **weights: Weights) -> Variant:
    heads = tuple((4 if dim == 96 else 2) * 2**i for i in range(4))
    return Variant({"dim": dim, "depths": depths, "num_heads": heads, "mixer": _cswin_mixer(7)}, weights)


def _convert_cswin(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The convolution of agent attention is called as the stripes' position encoding there."""
    out = {}
    agents = {name for name, module in model.named_modules() if isinstance(module, AgentAttention)}
    for key, value in convert_branches(state_dict, model).items():
        name, _, rest = key.partition(".lepe.")
        out[f"{name}.dwc.{rest}" if name in agents and rest else key] = value
    return _convert(out, model)


register_family(
    Family(
        **_FAMILY,
        model=CSwinTransformer,
        key_map=(*CSWIN_KEYS, (r"\.attns\.0\.", ".attn.")),
        convert=_convert_cswin,
        averaged=True,
        tiny={
            "dim": 16,
            "depths": (1, 1, 1, 1),
            "num_heads": (2, 2, 2, 4),
            "mlp_ratio": 2.0,
            "img_size": 64,
            "mixer": (_TINY, _TINY, "cross_shaped", {"name": "cross_shaped", "stripe_width": 0}),
        },
        variants={
            "agent_cswin_t": _cswin(64, (2, 4, 18, 1), in1k=_file("8c562a74441e46d5902b", 83.1)),
            "agent_cswin_s": _cswin(64, (3, 6, 29, 2), in1k=_file("30eb8af675bc4b7a8747", 83.9)),
            "agent_cswin_b": _cswin(
                96,
                (3, 6, 29, 2),
                in1k=_file("c8035b0839b2410c8c9f", 84.7),
                in1k_384=_file("1239be0df44b47719432", 85.8, 384, img_size=384, mixer=_cswin_mixer(12)),
            ),
        },
    )
)
