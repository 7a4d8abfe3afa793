"""Which weights a model got: how a file fits it, and what was loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones.checkpoints.store import file_sha256

__all__ = ["LoadReport", "load_report", "record_loading"]


@dataclass
class LoadReport:
    """How a set of weights fits a model.

    Attributes:
        source: The file, or where else the weights came from.
        sha256: Of the file; None without one.
        total: Keys of the model.
        matched: Keys that the weights have in the model's shape.
        missing: Keys of the model that the weights lack.
        unexpected: Keys of the weights that the model lacks.
        mismatched: Keys of both in different shapes.
    """

    source: str
    sha256: str | None
    total: int
    matched: int
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    @property
    def percent(self) -> float:
        """Matched keys in percent of the model's."""
        return 100.0 * self.matched / max(self.total, 1)

    @property
    def complete(self) -> bool:
        """Whether every key of the model was matched and nothing was left over."""
        return self.matched == self.total and not self.unexpected and not self.mismatched

    def render(self) -> str:
        """Some lines for people; loud when something does not match."""
        lines = [
            f"weights: {self.source}" + (f" (sha256 {self.sha256})" if self.sha256 else ""),
            f"  {self.matched} of {self.total} keys matched ({self.percent:.1f} %), {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.mismatched)} of another shape",
        ]
        for name, keys in (("missing", self.missing), ("unexpected", self.unexpected), ("shape", self.mismatched)):
            if keys:
                rest = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
                lines.append(f"  {name}: {', '.join(keys[:8])}{rest}")
        if self.percent < 100:
            bar = "!" * 100
            what = "the rest starts from RANDOM values" if self.matched else "NOTHING was loaded"
            lines = [bar, *lines, f"  WARNING: only {self.percent:.1f} % of the model's keys were loaded; {what}.", bar]
        return "\n".join(lines)


def load_report(
    model: nn.Module,
    weights: Mapping[str, torch.Tensor] | str | os.PathLike,
    source: str | os.PathLike | None = None,
) -> LoadReport:
    """Compares weights with a model's keys and shapes; loads nothing.

    Args:
        model: The model.
        weights: A state dict under the model's keys, or a safetensors or torch file of one.
        source: The file that a state dict came from, or a description.
    """
    if isinstance(weights, (str, os.PathLike)):
        from timm.models import load_state_dict

        source = source or weights
        weights = load_state_dict(str(weights), weights_only=True)
    own = model.state_dict()
    same = [key for key in own if key in weights and own[key].shape == weights[key].shape]
    file = source if source is not None and Path(source).is_file() else None
    return LoadReport(
        source=str(source) if source is not None else "a state dict",
        sha256=file_sha256(file) if file is not None else None,
        total=len(own),
        matched=len(same),
        missing=[key for key in own if key not in weights],
        unexpected=[key for key in weights if key not in own],
        mismatched=[key for key in own if key in weights and own[key].shape != weights[key].shape],
    )


@contextmanager
def record_loading() -> Iterator[list[LoadReport]]:
    """Reports what any ``load_state_dict`` inside the block did, e.g. that of ``timm.create_model(pretrained=True)``.

    timm adapts published weights (key names, classifier, input channels) before it loads them and keeps no account;
    this sees the adapted weights at the moment they are loaded.
    """
    reports: list[LoadReport] = []
    original = nn.Module.load_state_dict

    def recorded(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any):
        reports.append(load_report(self, state_dict, published_source(self)))
        return original(self, state_dict, *args, **kwargs)

    nn.Module.load_state_dict = recorded
    try:
        yield reports
    finally:
        nn.Module.load_state_dict = original


def published_source(model: nn.Module) -> str:
    """The file that timm took a model's published weights from, or its address when the file cannot be found."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    if cfg.get("file"):
        return str(cfg["file"])
    if cfg.get("hf_hub_id"):
        from huggingface_hub import try_to_load_from_cache

        for name in (cfg.get("hf_hub_filename"), "model.safetensors", "pytorch_model.bin"):
            cached = try_to_load_from_cache(cfg["hf_hub_id"], name) if name else None
            if isinstance(cached, str):
                return cached
        return f"hf-hub:{cfg['hf_hub_id']}"
    if cfg.get("url"):
        cached = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(cfg["url"])
        return str(cached) if cached.is_file() else cfg["url"]
    return "a state dict"
