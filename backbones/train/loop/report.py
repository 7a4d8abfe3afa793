"""What a model costs here: the row of figures that a run writes at its end."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from backbones.utils.profiling import count_macs, count_parameters

__all__ = ["benchmark"]


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory so far in MB (1e6 bytes): of the GPU's allocator, elsewhere the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


@torch.no_grad()
def inference_speed(model: nn.Module, images: torch.Tensor, seconds: float = 2.0) -> float:
    """Images per second of evaluation, on a batch that is already on the device."""
    training = model.training
    model.eval()
    wait = torch.cuda.synchronize if images.device.type == "cuda" else lambda: None
    try:
        model(images)
        wait()
        start, batches = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            model(images)
            wait()
            batches += 1
        return batches * len(images) / (time.perf_counter() - start)
    finally:
        model.train(training)


def benchmark(
    model: nn.Module, images: torch.Tensor, train_img_per_s: float | None, extra: Mapping[str, Any], autocast=None
) -> dict[str, Any]:
    """One row: what the model costs here.

    Args:
        model: The bare model on its device.
        images: A batch (B, C, H, W) on the device.
        train_img_per_s: Measured in training, data loading included; None if it was not.
        extra: Columns to put first (model, device, …).
        autocast: Context manager factory for inference, e.g. mixed precision.
    """
    peak = peak_memory_mb(images.device)
    with autocast() if autocast else torch.no_grad():
        speed = inference_speed(model, images)
    return {
        **extra,
        "img_size": "x".join(str(side) for side in images.shape[-2:]),
        "params_m": round(count_parameters(model) / 1e6, 4),
        "gmacs": round(count_macs(model, images.shape[1:]) / 1e9, 4),
        "infer_batch": len(images),
        "infer_img_per_s": round(speed, 1),
        "train_img_per_s": round(train_img_per_s, 1) if train_img_per_s else "",
        "train_peak_memory_mb": round(peak, 1),
    }
