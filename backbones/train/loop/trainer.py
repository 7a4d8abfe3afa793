"""The training step, the evaluation, and the state that a run needs to go on exactly where it stopped.

Nothing random outlives a step: dropout, drop path and mixing are seeded by (seed, step) and augmentation by sample, so
the state holds no generators. On a CPU, a resumed run repeats an uninterrupted one bit for bit.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from timm.data import Mixup
from timm.models import model_parameters
from timm.scheduler.plateau_lr import PlateauLRScheduler
from timm.utils import ModelEmaV3, dispatch_clip_grad, distribute_bn
from torch import nn

from backbones.train.data.loader import EvalLoader, TrainLoader
from backbones.train.evaluation.evaluate import Evaluation, Forward, evaluate
from backbones.train.loop import distributed as D
from backbones.train.loop.distributed import World
from backbones.train.loop.losses import TrainingLoss
from backbones.train.loop.optimizer import build_optimizer, build_schedule
from backbones.train.options import TrainOptions
from backbones.utils.failures import is_out_of_memory
from backbones.utils.processes import return_freed_memory
from backbones.utils.seeding import mix_seed, seeded


class TrainError(RuntimeError):
    """Training cannot go on; the message names where and the remedies."""


@dataclass
class Progress:
    """Where a run is.

    ``sums`` are the running epoch's loss, correct and image counts on this process, ``logged`` those of all processes
    at the end of the last log interval.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    logged: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    finished: bool = False


class Trainer:
    """Trains one model on one process of a world.

    Args:
        model: The model, on the device; it is wrapped or sharded here.
        loss: Training loss.
        options: Resolved options.
        lr: Learning rate after scaling.
        train: Training data.
        world: The processes.
        mixup: Mixing of batches, or None.
        say: Called with a sentence when a batch is cut for lack of memory.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: TrainingLoss,
        options: TrainOptions,
        lr: float,
        train: TrainLoader,
        world: World,
        mixup: Mixup | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.options, self.world, self.train_loader, self.loss, self.mixup = options, world, train, loss, mixup
        self.device, self.say = world.device, say
        self.dtype = getattr(torch, options.model_dtype or "float32")
        self.progress = Progress()
        self.fsdp = options.fsdp and world.size > 1
        dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}[options.amp_dtype]
        self.amp_dtype = dtype if options.amp else None
        scaled = self.amp_dtype == torch.float16
        if self.fsdp and (scaled or options.clip_mode == "agc"):
            raise TrainError("--fsdp goes with --amp-dtype bfloat16 and --clip-mode norm or value only.")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.ema = None
        if options.model_ema:
            self.ema = ModelEmaV3(
                model, decay=options.model_ema_decay, use_warmup=options.model_ema_warmup, foreach=not self.fsdp
            )
        self.bare = model
        self.trainable = loss.trainable(model)
        self.projection = getattr(self.trainable, "projection", None) or nn.Identity()  # of distilled features
        if self.fsdp:
            self.model = D.shard_fsdp(model, world)
            if self.ema:
                D.shard_fsdp(self.ema.module, world)
        else:
            self.model = D.wrap_ddp(self.trainable, world, broadcast_buffers=not options.no_ddp_bb)
        self.optimizer = build_optimizer(self.trainable, options, lr)
        self.scheduler, self.epochs = build_schedule(self.optimizer, options, train.steps)
        if self.scheduler is not None:
            self.scheduler.step_update(0)
        if options.torchcompile:
            self.trainable.compile(backend=options.torchcompile, mode=options.torchcompile_mode)
        self._bad_step = torch.tensor(-1, device=self.device)
        self._loss = torch.zeros((), device=self.device)

    @property
    def lr(self) -> float:
        """The current learning rate: the largest of the parameter groups (layer decay lowers the others)."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Mixed precision as the options say."""
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)

    def to_device(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Moves a batch, in the options' memory format."""
        layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
        images = images.to(self.device, self.dtype, non_blocking=True, memory_format=layout)
        return images, labels.to(self.device, non_blocking=True)

    def micro_step(self, images: torch.Tensor, labels: torch.Tensor, micro: int, last: bool) -> None:
        """Forward and backward of one micro-batch; gradients and sums accumulate."""
        p, seed, accum = self.progress, self.options.seed, self.train_loader.sampler.accum
        if images.ndim == 5:  # (B, splits, C, H, W): timm's losses take one split after the other
            labels = labels.repeat(images.shape[1])
            images = images.transpose(0, 1).flatten(0, 1)
        images, labels = self.to_device(images, labels)
        target = labels
        shard = 0 if self.options.mixup_mode == "batch" else self.world.rank * accum + micro
        if self.mixup is not None:
            off = self.options.mixup_off_epoch
            self.mixup.mixup_enabled = not off or p.epoch < off
            with seeded(seed, "mix", p.updates, shard):
                images, target = self.mixup(images, labels)
        torch.manual_seed(mix_seed(seed, "dropout", p.updates, self.world.rank, micro))
        with D.gradient_sync(self.model, sync=last):
            with self.autocast():
                output = self.model(images)
                loss, logits = self.loss(output, target, images)
            self.scaler.scale(loss / accum).backward()
        loss = loss.detach()
        self._bad_step = torch.where((self._bad_step < 0) & ~loss.isfinite(), p.updates, self._bad_step)
        self._sums[0] += loss.double() * len(images)
        self._sums[1] += (logits.detach().argmax(1) == labels).sum()
        self._sums[2] += len(images)
        self._loss = self._loss + loss / accum

    def optimizer_step(self) -> None:
        """Clips, steps the optimiser, the average and the schedule."""
        options = self.options
        if options.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [
                *model_parameters(self.bare, exclude_head=options.clip_mode == "agc"),
                *self.projection.parameters(),
            ]
            dispatch_clip_grad(parameters, options.clip_grad, mode=options.clip_mode)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.updates += 1
        self.progress.step += 1
        if self.ema is not None:
            self.ema.update(self.bare, step=self.progress.updates)
        if self.scheduler is not None:
            self.scheduler.step_update(self.progress.updates)

    def train_epoch(self) -> Iterator[float]:
        """Runs the rest of the current epoch; yields after every optimiser step, with its wall time in seconds.

        Out of memory with ``--auto-batch-halving`` on one process: the batch is halved and the step repeated.
        """
        p, loader = self.progress, self.train_loader
        self._sums = torch.tensor(p.sums, dtype=torch.float64, device=self.sum_device)
        self.model.train()
        while p.step < loader.steps:
            accum, start = loader.sampler.accum, time.perf_counter()
            try:
                for number, (images, labels) in enumerate(loader.batches(p.epoch, p.step)):
                    micro = number % accum
                    if micro == 0:
                        self._loss = torch.zeros((), device=self.device)
                        before = self._sums.clone()
                    self.micro_step(images, labels, micro, last=micro == accum - 1)
                    if micro == accum - 1:
                        self.optimizer_step()
                        now = time.perf_counter()
                        yield now - start
                        start = now
                break
            except (RuntimeError, MemoryError) as error:
                can_halve = self.options.auto_batch_halving and self.world.size == 1
                if not is_out_of_memory(error) or not can_halve or loader.sampler.batch_size % 2:
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            self._sums = before
            images = labels = None  # or they would be kept while the next are made
            gc.collect()  # frames of the failed step
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return_freed_memory()
            self.say(loader.halve())
        if p.step < loader.steps:
            raise TrainError(
                f"The training stream ended after {p.step} of {loader.steps} steps: check --train-num-samples."
            )

    def end_epoch(self, metric: float | None) -> None:
        """Goes to the start of the next epoch and steps the schedule, by the evaluation's metric if by plateau."""
        p = self.progress
        p.epoch, p.step, p.sums, p.logged = p.epoch + 1, 0, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
        if self.scheduler is not None:
            self.scheduler.step(p.epoch, metric)

    @property
    def sums(self) -> list[float]:
        """Loss, correct and image counts of the running epoch on this process."""
        return self._sums.tolist()

    @property
    def sum_device(self) -> torch.device:
        """Where float64 sums are kept (mps has no float64)."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def check_finite(self) -> None:
        """Raises TrainError when a loss since the start was not a finite number, naming the step."""
        step = int(self._bad_step)
        if self.world.any(step >= 0):
            step = step if step >= 0 else self.progress.updates
            raise TrainError(
                f"The loss is not finite at step {step} (epoch {self.progress.epoch}): try a lower --lr, more "
                "--warmup-epochs, --clip-grad 1.0, --amp-dtype bfloat16 or --no-amp; --resume auto goes on from "
                "the checkpoint before."
            )

    def train_metrics(self) -> dict[str, float]:
        """Loss and (for unmixed labels) top-1 of the running epoch, over all processes."""
        loss, correct, count = self.world.sum(self._sums.tolist())
        if not count:
            return {"train_loss": math.nan}
        metrics = {"train_loss": loss / count}
        if self.mixup is None:
            metrics["train_top1"] = 100.0 * correct / count
        return metrics

    def evaluate(self, loader: EvalLoader, model: nn.Module, batches: int | None = None) -> Evaluation:
        """Measures a model on the images of all processes.

        Args:
            loader: Evaluation data; labels below 0 are left out.
            model: Unwrapped model; its mode is restored.
            batches: Stop after so many.
        """
        training, layout = model.training, self.options.channels_last
        # Where the model is sharded, all processes must run the same batches.
        forward = Forward(model.eval(), self.device, self.amp_dtype, layout, halve=not self.fsdp, say=self.say)
        try:
            return evaluate(forward, itertools.islice(loader, batches), sum_up=self.world.sum)
        finally:
            model.train(training)

    def distribute_bn(self) -> None:
        """Makes BatchNorm statistics the same on all processes before evaluation and saving."""
        if self.world.size > 1 and self.options.dist_bn != "none" and not self.fsdp:
            distribute_bn(self.bare, self.world.size, self.options.dist_bn == "reduce")
            if self.ema is not None:
                distribute_bn(self.ema.module, self.world.size, self.options.dist_bn == "reduce")

    def state(self) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
        """Weights by file name, and everything else; all processes must call it, rank 0 gets the whole."""
        weights = {"last.safetensors": D.full_model_state(self.bare)}
        if self.ema is not None:
            weights["last_ema.safetensors"] = D.full_model_state(self.ema.module)
        return weights, {
            **vars(self.progress),
            # The sum over processes: a resumed run may have another number of them.
            "sums": self.world.sum(self._sums.tolist()) if self.progress.step else [0.0, 0.0, 0.0],
            "optimizer": D.full_optimizer_state(self.model, self.optimizer, self.fsdp),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else {},
            "scaler": self.scaler.state_dict(),
            "projection": self.projection.state_dict(),
            "seed": self.options.seed,
            "global_batch": self.train_loader.global_batch,
            "steps_per_epoch": self.train_loader.steps,
        }

    def load_state(self, weights: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
        """Goes back to a state that :meth:`state` gave.

        Raises:
            TrainError: When the global batch, seed or averaging differ, so that the run could not go on exactly, or
                the state belongs to another model or optimiser.
        """
        if state["global_batch"] != self.train_loader.global_batch and state["step"]:
            raise TrainError(
                f"The run stopped inside an epoch with a global batch of {state['global_batch']}, but now it would be "
                f"{self.train_loader.global_batch}: choose --batch-size and --grad-accum-steps for the number of "
                "processes so that their product is the same."
            )
        if state["seed"] != self.options.seed and state["step"]:
            raise TrainError(f"The run was started with --seed {state['seed']}; it cannot go on with another.")
        if ("last_ema.safetensors" in weights) != (self.ema is not None):
            raise TrainError("The run was saved with --model-ema the other way round; it cannot go on like this.")
        # Hyper-parameters come from the options (the same ones unless overridden), only the moments from the state.
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            D.load_model_state(self.bare, weights["last.safetensors"])
            self.projection.load_state_dict(state.get("projection", {}))
            if self.ema is not None:
                D.load_model_state(self.ema.module, weights["last_ema.safetensors"])
            D.load_optimizer_state(self.model, self.optimizer, state["optimizer"], self.fsdp)
            self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:300]
            raise TrainError(
                f"The saved state does not fit these options, so the run cannot go on ({reason})."
            ) from error
        state = {"logged": state["sums"], **state}  # which earlier states lack
        p = self.progress = Progress(**{item.name: state[item.name] for item in fields(Progress)})
        if not self.world.primary:
            p.sums = [0.0, 0.0, 0.0]
        if state["global_batch"] != self.train_loader.global_batch:
            p.updates = p.epoch * self.train_loader.steps
        if isinstance(self.scheduler, PlateauLRScheduler):
            self.scheduler.load_state_dict(state["scheduler"])
            return
        for group, built in zip(self.optimizer.param_groups, groups):
            group.update(built)
        if self.scheduler is not None:
            self.scheduler.step(p.epoch)
            self.scheduler.step_update(p.updates)
