"""Comparisons of whole models with fixtures that every family makes alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from backbones.dense import DenseBackbone
from tests.parity.parity import load, make_input, official_state_dict, worst_error


def published(name: str, fixture: dict[str, Any], **kwargs: Any) -> nn.Module:
    """The model `name` with the fixture's checkpoint, loaded as published weights are, in evaluation mode."""
    overlay = {"state_dict": official_state_dict(fixture)}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


def check_maps(expected: Sequence[dict], got: Sequence[torch.Tensor], tolerance: float) -> None:
    """Every feature map, and no other, is what the authors' code computes."""
    for digest, values in zip(expected, got, strict=True):
        assert worst_error(digest, values) < tolerance


def check_dense(path: Path, name: str, tolerance: float) -> None:
    """The dense form of `name` has the parameters and the maps of the authors' dense backbone."""
    fixture = load(path)
    backbone = DenseBackbone(name).eval()
    backbone.load_state_dict(backbone.convert_checkpoint(official_state_dict(fixture)))
    assert sum(p.numel() for p in backbone.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        check_maps(run["features"], backbone(make_input(run["input"])), tolerance)
