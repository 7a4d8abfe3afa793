"""A whole run: from options to a folder with recipe, checkpoints, tables, curves and TensorBoard events."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shlex
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from backbones import __version__
from backbones.train.loop import components, folder, report
from backbones.train.loop.checkpoint import CheckpointFolder
from backbones.train.loop.distributed import World
from backbones.train.loop.distributed import world as join_world
from backbones.train.loop.losses import TrainingLoss, build_criterion, build_distillation, build_mixup
from backbones.train.loop.memory import explain, largest_batch
from backbones.train.loop.progress import Display
from backbones.train.loop.trainer import Trainer, TrainError
from backbones.train.options import TrainOptions
from backbones.train.options.recipe import RecipeError, resolve, resolve_lr
from backbones.utils.failures import is_out_of_memory
from backbones.utils.files import write_csv

#: Options that decide what the tensors of a saved state mean.
FIXED = ("model", "model_kwargs", "num_classes", "in_chans", "gp", "opt")
#: Drawing takes a second or so: with shorter epochs, the curves are drawn no more often than this.
PLOT_SECONDS = 15.0
#: A SIGINT this long after the first signal is a user's who does not want to wait.
IMPATIENT_SECONDS = 5.0


class Stop:
    """Turns SIGINT and SIGTERM into a flag; a second SIGINT some seconds later interrupts at once.

    One request to stop may come as several signals: ``timeout`` signals its child and then the process group, and
    torchrun passes on what it got to processes that got it too.
    """

    def __init__(self) -> None:
        self.signal, self.since = 0, 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listens inside the block."""
        saved = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in saved.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.signal:
            self.signal, self.since = number, now
        elif number == signal.SIGINT and now - self.since > IMPATIENT_SECONDS:
            raise KeyboardInterrupt


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


def _tag(column: str) -> str:
    """TensorBoard's tag of a column of the summary; ``train/`` itself holds the values of log intervals."""
    group, _, name = column.partition("_")
    return f"eval/{name}" if group == "eval" else f"train_epoch/{column.removeprefix('train_')}"


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
        self.stop = Stop()
        self.train_speeds: list[float] = []
        self.next_plot = 0.0
        self._build()

    def say(self, text: str) -> None:
        """A line from rank 0."""
        if self.world.primary:
            print(text, flush=True)

    def _build(self) -> None:
        options, world = self.options, self.world
        self.data = components.build_data(options, world)
        if options.eval_metric == "top5" and self.data.num_classes < 5:
            raise TrainError(f"--eval-metric top5 needs five classes or more, the data has {self.data.num_classes}.")
        components.limit_unreadable(self.data, options.max_unreadable)
        model, self.loaded = components.build_model(options, self.data.num_classes, load=not self.resuming)
        self.config = components.data_config(options, model)
        model = components.place_model(model, options, world)
        mixup = build_mixup(options, self.data.num_classes)
        distillation = build_distillation(options, self.config, self.data.num_classes, world.device)
        criterion = build_criterion(options, mixup is not None)
        loss = TrainingLoss(criterion, options.aux_loss_weight, distillation).to(world.device)
        self.train_loader, self.val_loader = components.build_loaders(options, self.data, self.config, world)
        if options.auto_batch_halving:
            self._halve_until_it_fits(model, loss)
        lr, _ = resolve_lr(options, self.train_loader.global_batch)
        self.trainer = Trainer(model, loss, options, lr, self.train_loader, world, mixup)
        self.model = model
        if self.resuming:
            self.trainer.load_state(*CheckpointFolder(self.path).load())

    def open(self, path: Path) -> None:
        """Takes the folder that the run writes to, and writes its recipe."""
        self.path, self.checkpoints = path, CheckpointFolder(path)
        components.log_unreadable(self.data, path)
        if self.world.primary:
            folder.write_recipe(path, self.options, self._derived())

    def _halve_until_it_fits(self, model: torch.nn.Module, loss: TrainingLoss) -> None:
        sampler = self.train_loader.sampler
        fits = self.world.min(largest_batch(model, loss, self.config["input_size"], sampler.batch_size, self.options))
        if fits == 0:
            raise TrainError("Not even one image fits into memory: try --grad-checkpointing or a smaller --img-size.")
        while sampler.batch_size > fits:
            self.train_loader.halve()
            self.say(f"out of memory: now {sampler.batch_size} images x {sampler.accum} accumulation steps")

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
            "resolved_lr": resolve_lr(self.options, self.train_loader.global_batch)[0],
            "versions": {"backbones": __version__, "torch": str(torch.__version__), "timm": timm.__version__},
            "command": shlex.join(self.command),
        }

    def _introduce(self) -> None:
        options, loader, p = self.options, self.train_loader, self.trainer.progress
        parameters = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        sampler = loader.sampler
        self.say(f"run folder: {'none (--dry-run)' if options.dry_run else self.path}")
        self.say(f"recipe: {options.recipe or 'none (built-in defaults and flags)'}")
        size = "x".join(map(str, self.config["input_size"]))
        self.say(f"model: {options.model}, {parameters:.2f} M parameters, input {size}")
        self.say(
            f"data: {self.data.name}, {len(self.data.train)} images to train, {len(self.data.val)} to evaluate, "
            f"{self.data.num_classes} classes; up to {options.max_unreadable} unreadable images are skipped"
        )
        self.say(
            f"global batch {loader.global_batch} = {sampler.batch_size} images x {self.world.size} processes x "
            f"{sampler.accum} accumulation steps; {loader.steps} steps an epoch, {self.trainer.epochs} epochs"
        )
        precision = options.amp_dtype if options.amp else "float32"
        _, how = resolve_lr(options, loader.global_batch)
        self.say(f"{options.opt}, {how}; {precision} on {self.world.device}")
        if options.warmup_epochs >= options.epochs and not options.warmup_prefix and options.sched != "none":
            self.say(
                f"WARNING: all {options.epochs} epochs are warm-up (--warmup-epochs {options.warmup_epochs}), so the "
                "learning rate never reaches its value"
            )
        if self.resuming:
            self.say(f"resumed at epoch {p.epoch}, step {p.step} ({p.updates} updates so far)")
        else:
            random = "weights: random (no --pretrained, no weights file)"
            self.say(self.loaded.render() if self.loaded else random)

    def execute(self) -> int:
        """Runs to the end, an interruption, or an error."""
        trainer, options = self.trainer, self.options
        self._introduce()
        p, steps = trainer.progress, self.train_loader.steps
        epochs = 1 if options.dry_run else trainer.epochs
        self.display = Display(self.world.primary, epochs * steps, p.updates)
        self.board, self.wandb = self._tensorboard(), self._wandb()
        try:
            with self.stop.listening():
                while p.epoch < epochs and not p.finished:
                    if not self._epoch():
                        return self._interrupted()
                    if options.dry_run:
                        break
            self.display.close()
            self._conclude()
            return 0
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.trainer.optimizer.zero_grad(set_to_none=True)
            size, alone = self.train_loader.sampler.batch_size, self.world.size == 1
            raise TrainError(
                explain(self.model, self.trainer.loss, self.config["input_size"], size, options, probe=alone)
            ) from error
        finally:
            self.display.close()
            if self.board is not None:
                self.board.close()
            if self.wandb is not None:
                self.wandb.finish()

    def _tensorboard(self):
        if not self.world.primary or self.options.dry_run:
            return None
        from torch.utils.tensorboard import SummaryWriter

        # Events that a killed start wrote after its last checkpoint are dropped; purge_step itself is dropped too.
        return SummaryWriter(str(self.path / "tensorboard"), purge_step=self.trainer.progress.updates + 1)

    def _wandb(self):
        """The run at Weights & Biases, which goes on under the same name when this one is resumed."""
        options = self.options
        if not options.log_wandb or not self.world.primary or options.dry_run:
            return None
        import wandb

        identity = self.path / "wandb.id"
        name = identity.read_text(encoding="utf-8") if self.resuming and identity.exists() else uuid.uuid4().hex
        identity.write_text(name, encoding="utf-8")
        return wandb.init(
            project=options.wandb_project or self.path.name,
            tags=list(options.wandb_tags) or None,
            config=options.values(),
            dir=str(self.path),
            id=name,
            resume="allow",
        )

    def _epoch(self) -> bool:
        """The rest of an epoch; False when it was interrupted and saved."""
        trainer, options, p = self.trainer, self.options, self.trainer.progress
        steps, size = self.train_loader.steps, self.train_loader.global_batch
        seconds, images, before = 0.0, 0, self.world.sum(list(p.sums))
        for number, took in enumerate(trainer.train_epoch()):
            seconds, images = seconds + took, images + size
            if number:
                self.train_speeds.append(size / took)
            self.display.step(p.updates)
            last = p.step == steps or (options.dry_run and number == 1)
            if p.updates % options.log_interval == 0 or last:
                before = self._log(seconds, images, before)
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

    def _log(self, seconds: float, images: int, before: list[float]) -> list[float]:
        trainer, p = self.trainer, self.trainer.progress
        trainer.check_finite()
        sums = self.world.sum(trainer.sums)
        loss = (sums[0] - before[0]) / max(sums[2] - before[2], 1)
        speed = images / seconds if seconds else 0.0
        where = f"epoch {p.epoch + 1}/{trainer.epochs} step {p.step}/{self.train_loader.steps}"
        facts = {
            "loss": f"{loss:.4f}",
            "lr": f"{trainer.lr:.3g}",
            "img/s": f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}",
        }
        self.display.log(where, p.updates, facts)
        if self.board is not None:
            for name, value in (("loss", loss), ("lr", trainer.lr), ("img_per_s", speed)):
                self.board.add_scalar(f"train/{name}", value, p.updates)
        return sums

    def _end_epoch(self) -> None:
        trainer, options, p = self.trainer, self.options, self.trainer.progress
        trainer.check_finite()
        trainer.distribute_bn()
        last = p.epoch + 1 == trainer.epochs or options.dry_run
        evaluated = last or (p.epoch + 1) % options.val_interval == 0
        batches = 1 if options.dry_run else None
        row: dict[str, Any] = {"epoch": p.epoch + 1, "updates": p.updates, "lr": trainer.lr, **trainer.train_metrics()}
        speeds = self.train_speeds[-self.train_loader.steps :]
        row["train_img_per_s"] = round(sorted(speeds)[len(speeds) // 2], 1) if speeds else ""
        better = {}
        models = {"": self.model} | ({"_ema": trainer.ema.module} if trainer.ema is not None else {})
        for suffix, model in models.items() if evaluated else ():
            metrics = trainer.evaluate(self.val_loader, model, batches)
            speed = metrics.pop("img_per_s")
            row.update({f"eval{suffix}_{name}": value for name, value in metrics.items()})
            if not suffix:
                row["eval_img_per_s"] = round(speed, 1)
            value = metrics[options.eval_metric] * (-1 if options.eval_metric == "loss" else 1)
            if value > p.best.get(f"best{suffix}", -math.inf):
                p.best[f"best{suffix}"] = value
                p.best[f"best{suffix}_epoch"] = p.epoch + 1
                better[f"best{suffix}.safetensors"] = f"last{suffix}.safetensors"
        p.rows.append(row)
        if evaluated:
            p.stale = 0 if better else p.stale + options.val_interval
        if trainer.scheduler is not None:
            trainer.scheduler.step(p.epoch + 1, row.get(f"eval_{options.eval_metric}"))
        p.epoch, p.step, p.sums = p.epoch + 1, 0, [0.0, 0.0, 0.0]
        shown = "  ".join(f"{key} {row[key]:.4g}" for key in row if key not in ("epoch", "updates") and row[key] != "")
        self.display.say(f"epoch {p.epoch} done  {shown}{'  (best)' if better else ''}")
        if options.early_stop and p.stale >= options.early_stop:
            p.finished = True
            self.display.say(f"early stop: {options.eval_metric} has not improved for {p.stale} epochs")
        if options.dry_run:
            return
        if self.world.primary:  # before saving: a start that goes on from here drops what comes after this step
            named = {_tag(key): value for key, value in row.items() if key not in ("epoch", "updates")}
            figures = {key: value for key, value in named.items() if value != ""}
            for key, value in figures.items():
                self.board.add_scalar(key, value, p.updates)
            if self.wandb is not None:
                self.wandb.log({**figures, "epoch": p.epoch}, step=p.updates)
        history = self._history() if evaluated else {}
        self._save(better | {name: file for name, (epoch, file) in history.items() if epoch == p.epoch})
        if self.world.primary:
            for old in self.path.glob("checkpoint-*.safetensors") if history else ():
                if old.name not in history:
                    old.unlink()
            self._write_tables()

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

    def _write_tables(self, final: bool = False) -> None:
        from backbones.train.evaluation.plots import plot_curves

        rows = self.trainer.progress.rows
        write_csv(self.path / "summary.csv", rows)
        if not rows or (not final and time.monotonic() < self.next_plot):
            return
        self.next_plot = time.monotonic() + PLOT_SECONDS
        plot_curves(rows, self.path / "curves.png", f"{self.options.model} on {self.data.name}")

    def _save(self, better: dict[str, str]) -> None:
        self.trainer.check_finite()
        if self.options.dry_run:
            return
        weights, state = self.trainer.state()
        if self.world.primary:
            self.board.flush()  # what a killed run shows reaches to its last checkpoint
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

    def _conclude(self) -> None:
        options, p = self.options, self.trainer.progress
        for source, split in ((self.data.train, "train"), (self.data.val, "val")):
            if source.unreadable.count:
                self.say(f"{source.unreadable.count} unreadable {split} images were skipped ({source.unreadable.log})")
        # Resuming a run that is already done trains nothing, so the row it has is the better one.
        again = self.path is not None and not self.train_speeds and (self.path / "benchmark.csv").exists()
        row = None if again else self._benchmark()
        if self.world.primary and row:
            self.say("benchmark: " + ", ".join(f"{key} {value}" for key, value in row.items()))
        if options.dry_run:
            self.say("dry run: two steps and one evaluation batch went through; nothing was kept")
            return
        if row and self.world.primary:
            write_csv(self.path / "benchmark.csv", [row])
        if self.world.primary:
            self._write_tables(final=True)
        metric = options.eval_metric
        for name in ("best", "best_ema"):
            if name in p.best:
                at, file = p.best[f"{name}_epoch"], self.path / f"{name}.safetensors"
                self.say(f"{name}: {metric} {abs(p.best[name]):.4g} at epoch {at} ({file})")
        if options.overfit:
            reached = p.rows[-1]["eval_top1"]
            verdict = (
                "the model can memorise them" if reached >= 99.9 else "NOT memorised: train longer or find the bug"
            )
            self.say(f"overfit: {reached:.1f} % top-1 on its own {options.overfit} images; {verdict}")
        for name, file in (("curves", "curves.png"), ("table", "summary.csv"), ("events", "tensorboard")):
            self.say(f"{name}: {self.path / file}")

    def _benchmark(self) -> dict[str, Any] | None:
        options, world = self.options, self.world
        if options.no_benchmark or self.trainer.fsdp or not world.primary:
            return None  # a sharded model cannot be run by one process alone
        speeds = sorted(self.train_speeds)
        on_gpu = world.device.type == "cuda"
        device = torch.cuda.get_device_name(world.device) if on_gpu else platform.processor() or platform.machine()
        batch = min(self.val_loader.batch_size, 64)
        images = torch.zeros(batch, *self.config["input_size"])
        images, _ = self.trainer.to_device(images, images)
        extra = {
            "model": options.model,
            "device": device,
            "threads": torch.get_num_threads(),
            "processes": world.size,
            "precision": options.amp_dtype if options.amp else "float32",
            "global_batch": self.train_loader.global_batch,
        }
        middle = speeds[len(speeds) // 2] if speeds else None
        return report.benchmark(self.model, images, middle, extra, self.trainer.autocast)
