"""A whole run: from options to a folder with recipe, checkpoints, tables, curves and TensorBoard events."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from backbones import __version__
from backbones.train.evaluation.models import data_config
from backbones.train.loop import components, folder, report
from backbones.train.loop.checkpoint import CheckpointFolder
from backbones.train.loop.distributed import World
from backbones.train.loop.distributed import world as join_world
from backbones.train.loop.logs import Logs
from backbones.train.loop.losses import TrainingLoss, build_criterion, build_distillation, build_mixup
from backbones.train.loop.memory import explain, largest_batch
from backbones.train.loop.optimizer import resolve_lr
from backbones.train.loop.progress import Display
from backbones.train.loop.trainer import Trainer, TrainError
from backbones.train.options import TrainOptions
from backbones.train.options.recipe import RecipeError, resolve
from backbones.utils.failures import is_out_of_memory
from backbones.utils.processes import Stop

#: Options that decide what the tensors of a saved state mean.
FIXED = ("model", "model_kwargs", "num_classes", "in_chans", "gp", "opt")


def train(recipe: str | None, given: dict[str, Any], command: Sequence[str] = ()) -> int:
    """Trains as asked and returns the exit code: 0 when done, 130 when interrupted and saved.

    Args:
        recipe: Recipe file or name.
        given: Options given by the user.
        command: The command line, to print how to go on.

    Raises:
        RecipeError, DataError, ModelError, TrainError, CheckpointError: With one sentence for the user.
    """
    options = resolve(recipe, given)
    with join_world(options.device) as world, contextlib.ExitStack() as stack:
        resumed = world.share(folder.folder_to_resume(options) if world.primary else None)
        if resumed is not None:
            if world.primary and not options.dry_run:
                stack.enter_context(folder.locked(resumed))
                CheckpointFolder(resumed).recover()
            world.barrier()
            stored = folder.read_recipe(resumed, recipe)
            given = {key: value for key, value in given.items() if key != "resume"}
            options = resolve(stored=stored, given=given)
            changed = {key: value for key, value in options.values().items() if stored.get(key, value) != value}
            fixed = [key for key in changed if key in FIXED]
            if fixed and CheckpointFolder(resumed).resumable:
                raise RecipeError(
                    f"{resumed} was started with {fixed[0]} {stored[fixed[0]]}, so it cannot go on with "
                    f"{changed[fixed[0]]}: start a new run with another --experiment."
                )
            for key, value in changed.items() if world.primary else ():
                print(f"changed on resuming: {key} was {stored[key]}, now is {value}", flush=True)
        elif world.primary and not options.dry_run:
            folder.check_new(options)
        run = Run(options, world, None if options.dry_run else resumed, command)
        if options.dry_run:
            return run.execute()
        # Nothing on the disk is touched before everything is known to fit together.
        if resumed is None and world.primary:
            resumed = stack.enter_context(folder.new_folder(options))
        run.open(world.share(resumed))
        return run.execute()


class Run:
    """One start of a run on one process.

    Args:
        options: Resolved options.
        world: The processes.
        resumed: The folder of an earlier start that this one continues, or None.
        command: The command line.
    """

    def __init__(self, options: TrainOptions, world: World, resumed: Path | None, command: Sequence[str]) -> None:
        self.options, self.world, self.path, self.command = options, world, resumed, command
        self.resuming = resumed is not None and CheckpointFolder(resumed).resumable
        self.stop, self.display, self.logs = Stop(), Display(world.primary), None
        self.say = self.display.say
        self.train_speeds: list[float] = []
        self.data = components.build_data(options)
        if options.eval_metric == "top5" and self.data.num_classes < 5:
            raise TrainError(f"--eval-metric top5 needs five classes or more, the data has {self.data.num_classes}.")
        self.model, self.loaded = components.build_model(options, self.data.num_classes, load=not self.resuming)
        self.config = data_config(self.model, vars(options), options.in_chans, options.size)
        self.model = components.place_model(self.model, options, world)
        mixup = build_mixup(options, self.data.num_classes)
        distillation = build_distillation(options, self.config, self.data.num_classes, world.device)
        criterion = build_criterion(options, mixup is not None)
        loss = TrainingLoss(criterion, options.aux_loss_weight, distillation).to(world.device)
        self.train_loader, self.val_loader = components.build_loaders(options, self.data, self.config, world)
        if options.auto_batch_halving:
            self._halve_until_it_fits(loss)
        self.lr, self.how_lr = resolve_lr(options, self.train_loader.global_batch)
        self.trainer = Trainer(self.model, loss, options, self.lr, self.train_loader, world, mixup, self.say)
        if self.resuming:
            self.trainer.load_state(*CheckpointFolder(resumed).load())

    def _halve_until_it_fits(self, loss: TrainingLoss) -> None:
        size = self.train_loader.sampler.batch_size
        fits = self.world.min(largest_batch(self.model, loss, self.config["input_size"], size, self.options))
        if fits == 0:
            raise TrainError("Not even one image fits into memory: try --grad-checkpointing or a smaller --img-size.")
        while self.train_loader.sampler.batch_size > fits:
            self.say(self.train_loader.halve())

    def open(self, path: Path) -> None:
        """Takes the folder that the run writes to, and writes its recipe."""
        self.path, self.checkpoints = path, CheckpointFolder(path)
        for split, source in (("train", self.data.train), ("val", self.data.val)):
            source.unreadable.log = path / f"unreadable_{split}.txt"
        if self.world.primary:
            folder.write_recipe(path, self.options, self._derived())
            title = f"{self.options.model} on {self.data.name}"
            self.logs = Logs(path, self.options, self.trainer.progress.updates, title)

    def _derived(self) -> dict[str, Any]:
        """What the recipe of the run says beyond the options, or in place of an option that was left open."""
        channels, height, width = self.config["input_size"]
        return {
            "num_classes": self.data.num_classes,
            "in_chans": channels,
            "img_size": height if height == width else None,
            "input_size": None if height == width else [channels, height, width],
            "mean": [float(value) for value in self.config["mean"]],
            "std": [float(value) for value in self.config["std"]],
            **{key: self.config[key] for key in ("interpolation", "crop_pct", "crop_mode")},
            "class_names": self.data.class_names,
            "recipe": self.options.recipe,
            "world_size": self.world.size,
            "global_batch": self.train_loader.global_batch,
            "resolved_lr": self.lr,
            "versions": {"backbones": __version__, "torch": str(torch.__version__), "timm": timm.__version__},
            "command": shlex.join(self.command),
        }

    def execute(self) -> int:
        """Runs to the end, an interruption, or an error."""
        trainer, options = self.trainer, self.options
        report.introduce(self)
        p, epochs = trainer.progress, 1 if options.dry_run else trainer.epochs
        self.display.start(epochs * self.train_loader.steps, p.updates)
        try:
            with self.stop.listening():
                while p.epoch < epochs and not p.finished:
                    if not self._epoch():
                        return self._interrupted()
                    if options.dry_run:
                        break
            self.display.close()
            report.conclude(self)
            return 0
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            trainer.optimizer.zero_grad(set_to_none=True)
            size, alone = self.train_loader.sampler.batch_size, self.world.size == 1
            raise TrainError(
                explain(self.model, trainer.loss, self.config["input_size"], size, options, probe=alone)
            ) from error
        finally:
            self.display.close()
            if self.logs is not None:
                self.logs.close()

    def _epoch(self) -> bool:
        """The rest of an epoch; False when it was interrupted and saved."""
        trainer, options, p = self.trainer, self.options, self.trainer.progress
        steps, size = self.train_loader.steps, self.train_loader.global_batch
        seconds, images = 0.0, 0
        for number, took in enumerate(trainer.train_epoch()):
            seconds, images = seconds + took, images + size
            if number:
                self.train_speeds.append(size / took)
            self.display.step(p.updates)
            last = p.step == steps or (options.dry_run and number == 1)
            if p.updates % options.log_interval == 0 or last:
                self._log(seconds, images)
                seconds, images = 0.0, 0
            if self.world.any(bool(self.stop.signal)):
                self._save({})
                return False
            if last:
                break
            if options.save_every_steps and p.updates % options.save_every_steps == 0:
                self._save({})
        self._end_epoch()
        return True

    def _log(self, seconds: float, images: int) -> None:
        """Shows and logs the loss of the interval that ends here."""
        trainer, p = self.trainer, self.trainer.progress
        trainer.check_finite()
        sums = self.world.sum(trainer.sums)
        loss = (sums[0] - p.logged[0]) / max(sums[2] - p.logged[2], 1)
        p.logged = sums
        speed = images / seconds if seconds else 0.0
        where = f"epoch {p.epoch + 1}/{trainer.epochs} step {p.step}/{self.train_loader.steps}"
        shown = f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"
        self.display.log(where, p.updates, {"loss": f"{loss:.4f}", "lr": f"{trainer.lr:.3g}", "img/s": shown})
        if self.logs is not None:
            self.logs.interval({"loss": loss, "lr": trainer.lr, "img_per_s": speed}, p.updates)

    def _end_epoch(self) -> None:
        trainer, options, p = self.trainer, self.options, self.trainer.progress
        trainer.check_finite()
        trainer.distribute_bn()
        last = p.epoch + 1 == trainer.epochs or options.dry_run
        evaluated = last or (p.epoch + 1) % options.val_interval == 0
        row: dict[str, Any] = {"epoch": p.epoch + 1, "updates": p.updates, "lr": trainer.lr, **trainer.train_metrics()}
        speeds = self.train_speeds[-self.train_loader.steps :]
        row["train_img_per_s"] = round(statistics.median_high(speeds), 1) if speeds else ""
        better = self._evaluate(row) if evaluated else {}
        p.rows.append(row)
        if evaluated:
            p.stale = 0 if better else p.stale + options.val_interval
        trainer.end_epoch(row.get(f"eval_{options.eval_metric}"))
        shown = "  ".join(f"{key} {row[key]:.4g}" for key in row if key not in ("epoch", "updates") and row[key] != "")
        self.say(f"epoch {p.epoch} done  {shown}{'  (best)' if better else ''}")
        if options.early_stop and p.stale >= options.early_stop:
            p.finished = True
            self.say(f"early stop: {options.eval_metric} has not improved for {p.stale} epochs")
        if options.dry_run:
            return
        if self.logs is not None:  # before saving: a start that goes on from here drops what comes after this step
            self.logs.epoch(row, p.updates)
        history = self._history() if evaluated else {}
        self._save(better | {name: file for name, (epoch, file) in history.items() if epoch == p.epoch})
        if self.logs is not None:
            for old in self.path.glob("checkpoint-*.safetensors") if history else ():
                if old.name not in history:
                    old.unlink()
            self.logs.table(p.rows)

    def _evaluate(self, row: dict[str, Any]) -> dict[str, str]:
        """Adds the figures of the weights, and of the averaged ones, to the epoch's row.

        Returns:
            Files of best weights to write, each with the file it equals.
        """
        trainer, options, best = self.trainer, self.options, self.trainer.progress.best
        better = {}
        models = {"": self.model} | ({"_ema": trainer.ema.module} if trainer.ema is not None else {})
        for suffix, model in models.items():
            result = trainer.evaluate(self.val_loader, model, batches=1 if options.dry_run else None)
            metrics = {"loss": result.loss, "top1": result.top1, "top5": result.top5}
            row.update({f"eval{suffix}_{name}": value for name, value in metrics.items() if value is not None})
            if not suffix:
                row["eval_img_per_s"] = round(result.images / result.seconds, 1)
            value = metrics[options.eval_metric] * (-1 if options.eval_metric == "loss" else 1)
            if value > best.get(f"best{suffix}", -math.inf):
                best[f"best{suffix}"] = value
                best[f"best{suffix}_epoch"] = row["epoch"]
                better[f"best{suffix}.safetensors"] = f"last{suffix}.safetensors"
        return better

    def _history(self) -> dict[str, tuple[int, str]]:
        """Files of as many best epochs as --checkpoint-hist says, each with its epoch and the file it equals."""
        keep, metric = self.options.checkpoint_hist, self.options.eval_metric
        files: dict[str, tuple[int, str]] = {}
        sign = 1 if metric == "loss" else -1
        for suffix in ("", "_ema") if keep > 1 else ():
            key = f"eval{suffix}_{metric}"
            rows = [row for row in self.trainer.progress.rows if math.isfinite(row.get(key, math.nan))]
            order = sorted((sign * row[key], row["epoch"]) for row in rows)
            for _, epoch in order[:keep]:
                files[f"checkpoint-{epoch}{suffix}.safetensors"] = (epoch, f"last{suffix}.safetensors")
        return files

    def _save(self, better: dict[str, str]) -> None:
        self.trainer.check_finite()
        if self.options.dry_run:
            return
        weights, state = self.trainer.state()
        if self.world.primary:
            self.logs.board.flush()  # what a killed run shows reaches to its last checkpoint
            metadata = {"model": self.options.model, "updates": str(self.trainer.progress.updates)}
            self.checkpoints.save(weights, state, better, metadata)
        self.world.barrier()

    def _interrupted(self) -> int:
        self.display.close()
        p = self.trainer.progress
        name = signal.Signals(self.stop.signal or signal.SIGTERM).name
        if self.options.dry_run:
            self.say(f"\nStopped by {name}.")
            return 130
        self.say(f"\nStopped by {name}; saved at epoch {p.epoch}, step {p.step}.")
        self.say(f"To go on: {self.resume_command()}")
        return 130

    def resume_command(self) -> str:
        """The command that continues this run."""
        launcher = f"torchrun --nproc_per_node {self.world.size} " if self.world.size > 1 else ""
        program = os.path.basename(self.command[0]) if self.command else "backbones-train"
        if program.endswith(".py"):
            program = ("" if launcher else "python ") + shlex.quote(self.command[0])
        elif launcher:
            program = "-m backbones.train.cli.train"
        return f"{launcher}{program} --resume {shlex.quote(str(self.path))}"
