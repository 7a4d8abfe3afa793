"""The wrapper that turns a model of the zoo into the backbone of a detector or segmentor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import nn

from backbones.layers.norm import LayerNorm2d
from backbones.models import family_of


class DenseBackbone(nn.Module):
    """Feature maps of a model of the zoo at several strides, each optionally through an output norm of its own.

    Args:
        model: Name of a model of the zoo, with or without tag.
        out_indices: Stages to return, ascending.
        out_norm: "layer" for a LayerNorm on every returned map (the form of the published detectors of NAT, DiNAT,
            BiFormer and OverLoCK), None for raw maps (MaxViT).
        pretrained: Load the tag's published ImageNet weights.
        grad_checkpointing: Recompute activations in the backward pass.
        **model_args: Further arguments of the model (`dilations`, `n_win`, `drop_path_rate`, ...).

    Maps `(B, in_chans, H, W)` to a list of `(B, C_i, H / r_i, W / r_i)`; `channels` and `reductions` describe them.

    Raises:
        ValueError: `out_indices` out of range or not ascending, or unknown `out_norm`.
    """

    def __init__(
        self,
        model: str,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: str | None = "layer",
        pretrained: bool = False,
        grad_checkpointing: bool = False,
        device=None,
        dtype=None,
        **model_args: Any,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.family = family_of(model)
        self.model = timm.create_model(model, pretrained=pretrained, num_classes=0, **dd, **model_args)
        info = self.model.feature_info
        out_indices = tuple(out_indices)
        if not out_indices or list(out_indices) != sorted(set(out_indices) & set(range(len(info)))):
            raise ValueError(f"out_indices {out_indices} must be ascending stage indices from 0 to {len(info) - 1}")
        if out_norm not in ("layer", None):
            raise ValueError(f'out_norm must be "layer" or None, not {out_norm!r}')
        self.out_indices = out_indices
        self.channels = [info[i]["num_chs"] for i in out_indices]
        self.reductions = [info[i]["reduction"] for i in out_indices]
        self.model.prune_intermediate_layers(list(out_indices), prune_norm=True)
        if grad_checkpointing:
            self.model.set_grad_checkpointing()
        self.out_norms = nn.ModuleList(
            LayerNorm2d(info[i]["num_chs"], eps=self.family.dense_norm_eps, **dd)
            if out_norm and i in out_indices
            else nn.Identity()
            for i in range(out_indices[-1] + 1)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        outputs = self.model.forward_dense(x, self.out_norms)
        return [outputs[i] for i in self.out_indices]

    def convert_checkpoint(self, checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The authors' dense checkpoint of this backbone (or our own) as a state dict of this module."""
        own = self.state_dict()
        converted = {}
        for key, value in self.family.convert_checkpoint(checkpoint, self.model).items():
            match = self.family.dense_norm and re.match(self.family.dense_norm, key)
            if match:
                key = f"out_norms.{match[1]}.{key[match.end() :]}"
            elif key not in own:
                key = f"model.{key}"
            converted[key] = value
        return converted
