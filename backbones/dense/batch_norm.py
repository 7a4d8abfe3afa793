"""BatchNorm over all processes in some parts of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.model import convert_sync_batchnorm, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from backbones.dense.register import HOOKS


@HOOKS.register_module()
class SyncBatchNormHook(Hook):
    """Synchronises BatchNorm over the GPUs of a run in the parts named, where `sync_bn` of a config is for all of it.

    Args:
        parts: Names of the network's children, such as "backbone", "neck" or "decode_head".
    """

    priority = "VERY_HIGH"  # before the copies that other hooks make of the network

    def __init__(self, parts: Sequence[str]) -> None:
        self.parts = tuple(parts)

    def before_run(self, runner: Runner) -> None:
        """Nothing to do for a single process, and on a CPU, for which there is no synchronised BatchNorm."""
        if runner.distributed and torch.cuda.is_available():
            self.convert(runner.model.module if is_model_wrapper(runner.model) else runner.model)

    def convert(self, model: nn.Module) -> None:
        """Replace the BatchNorms of the parts in `model`, which keep their parameters and statistics.

        Raises:
            ValueError: The network has no such part.
        """
        for part in self.parts:
            if getattr(model, part, None) is None:
                children = ", ".join(name for name, _ in model.named_children())
                raise ValueError(f"SyncBatchNormHook: {type(model).__name__} has no part {part!r}, but {children}")
            setattr(model, part, convert_sync_batchnorm(getattr(model, part)))
