"""What a run says at its start and its end, and the row of figures on what its model costs here."""

from __future__ import annotations

import platform
import resource
import statistics
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from backbones.benchmark.measure import interleave
from backbones.utils.files import write_csv
from backbones.utils.profiling import count_macs, count_parameters

if TYPE_CHECKING:
    from backbones.train.loop.run import Run


def introduce(run: Run) -> None:
    """Says what is about to be trained, on what, and how."""
    options, loader, p, say = run.options, run.train_loader, run.trainer.progress, run.say
    sampler, size = loader.sampler, "x".join(map(str, run.config["input_size"]))
    say(f"run folder: {'none (--dry-run)' if options.dry_run else run.path}")
    say(f"recipe: {options.recipe or 'none (built-in defaults and flags)'}")
    say(f"model: {options.model}, {count_parameters(run.model) / 1e6:.2f} M parameters, input {size}")
    say(
        f"data: {run.data.name}, {len(run.data.train)} images to train, {len(run.data.val)} to evaluate, "
        f"{run.data.num_classes} classes; up to {options.max_unreadable} unreadable images are skipped"
    )
    say(
        f"global batch {loader.global_batch} = {sampler.batch_size} images x {run.world.size} processes x "
        f"{sampler.accum} accumulation steps; {loader.steps} steps an epoch, {run.trainer.epochs} epochs"
    )
    say(f"{options.opt}, {run.how_lr}; {_precision(run)} on {run.world.device}")
    if options.warmup_epochs >= options.epochs and not options.warmup_prefix and options.sched != "none":
        say(
            f"WARNING: all {options.epochs} epochs are warm-up (--warmup-epochs {options.warmup_epochs}), so the "
            "learning rate never reaches its value"
        )
    if run.resuming:
        say(f"resumed at epoch {p.epoch}, step {p.step} ({p.updates} updates so far)")
    else:
        say(run.loaded.render() if run.loaded else "weights: random (no --pretrained, no weights file)")


def conclude(run: Run) -> None:
    """Writes the last files of a run that has come to its end, and says what it reached and where it is."""
    options, p, say = run.options, run.trainer.progress, run.say
    for source, split in ((run.data.train, "train"), (run.data.val, "val")):
        if source.unreadable.count:
            say(f"{source.unreadable.count} unreadable {split} images were skipped ({source.unreadable.log})")
    # Resuming a run that is already done trains nothing, so the row it has is the better one.
    again = run.path is not None and not run.train_speeds and (run.path / "benchmark.csv").exists()
    # A sharded model cannot be run by one process alone.
    wanted = run.world.primary and not (again or options.no_benchmark or run.trainer.fsdp)
    row = _benchmark(run) if wanted else None
    if row:
        say("benchmark: " + ", ".join(f"{key} {value}" for key, value in row.items()))
    if options.dry_run:
        say("dry run: two steps and one evaluation batch went through; nothing was kept")
        return
    if row:
        write_csv(run.path / "benchmark.csv", [row])
    if run.logs is not None:
        run.logs.table(p.rows, final=True)
    for name in ("best", "best_ema"):
        if name in p.best:
            at, file = p.best[f"{name}_epoch"], run.path / f"{name}.safetensors"
            say(f"{name}: {options.eval_metric} {abs(p.best[name]):.4g} at epoch {at} ({file})")
    if options.overfit:
        reached = p.rows[-1]["eval_top1"]
        verdict = "the model can memorise them" if reached >= 99.9 else "NOT memorised: train longer or find the bug"
        say(f"overfit: {reached:.1f} % top-1 on its own {options.overfit} images; {verdict}")
    for name, file in (("curves", "curves.png"), ("table", "summary.csv"), ("events", "tensorboard")):
        say(f"{name}: {run.path / file}")


def _precision(run: Run) -> str:
    return run.options.amp_dtype if run.options.amp else "float32"


def _benchmark(run: Run) -> dict[str, Any]:
    device = run.world.device
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    images = torch.zeros(min(run.val_loader.batch_size, 64), *run.config["input_size"])
    images, _ = run.trainer.to_device(images, images)
    extra = {
        "model": run.options.model,
        "device": named,
        "threads": torch.get_num_threads(),
        "processes": run.world.size,
        "precision": _precision(run),
        "global_batch": run.train_loader.global_batch,
    }
    speed = statistics.median_high(run.train_speeds) if run.train_speeds else None
    return benchmark(run.model, images, speed, extra, run.trainer.autocast)


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
    try:
        return len(images) / interleave([lambda: model(images)], images.device, 1, seconds)[0].seconds
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
