"""The learning rate, the optimiser with its parameter groups, and the schedule, from the options."""

from __future__ import annotations

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.scheduler import Scheduler
from torch import nn

from backbones.train.options import TrainOptions


def resolve_lr(options: TrainOptions, global_batch: int) -> tuple[float, str]:
    """The learning rate for a global batch, and a sentence that says how it came about."""
    if options.lr is not None:
        return options.lr, f"learning rate {options.lr:g} as given (global batch {global_batch})"
    ratio = global_batch / options.lr_base_size
    scale = ratio**0.5 if options.lr_base_scale == "sqrt" else ratio
    lr = options.lr_base * scale
    root = "sqrt" if options.lr_base_scale == "sqrt" else ""
    how = f"{options.lr_base:g} x {root}({global_batch}/{options.lr_base_size})"
    return lr, f"learning rate {lr:g} = {how}, {options.lr_base_scale} scaling to the global batch {global_batch}"


def build_optimizer(model: nn.Module, options: TrainOptions, lr: float) -> torch.optim.Optimizer:
    """The optimiser that the options name, with timm's parameter groups for weight decay and layer decay."""
    kwargs = {key: getattr(options, f"opt_{key}") for key in ("eps", "betas")}
    return create_optimizer_v2(
        model,
        opt=options.opt,
        lr=lr,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        layer_decay=options.layer_decay,
        layer_decay_min_scale=options.layer_decay_min_scale,
        **{key: value for key, value in kwargs.items() if value is not None},
        **options.opt_kwargs,
    )


def build_schedule(optimizer: torch.optim.Optimizer, options: TrainOptions, steps: int) -> tuple[Scheduler | None, int]:
    """The learning-rate schedule, and the epochs to train with warm-up and cool-down; `steps` updates an epoch."""
    return create_scheduler_v2(
        optimizer,
        **scheduler_kwargs(options, decreasing_metric=options.eval_metric == "loss"),
        updates_per_epoch=steps,
    )
