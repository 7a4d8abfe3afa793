"""mmengine's training loops, such that a resumed run equals one that was never interrupted.

Nothing random outlives an iteration: dropout, stochastic depth and sampled regions are seeded by (seed, iteration,
process), and augmentation by sample (`backbones.dense.loading`). So a checkpoint needs no state of generators, and a
run goes on from the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmengine.runner
from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from backbones.dense.loading import Batches
from backbones.utils.files import write_text
from backbones.utils.seeding import seed_all

LATEST = "latest.pth"


class EpochBasedTrainLoop(mmengine.runner.EpochBasedTrainLoop):
    """As mmengine's, but goes on inside an epoch where the checkpoint was saved there."""

    def resume(self, batches_per_epoch: int | None) -> None:
        """Find the batch to go on from, when epoch and iteration have been restored.

        Args:
            batches_per_epoch: Those of the run that saved, where it is known. If they are others here, an epoch that
                was not finished starts anew.
        """
        length = len(self.dataloader)
        done = self._iter - self._epoch * (batches_per_epoch or length)
        if batches_per_epoch in (None, length):
            self._batches.start = done if 0 <= done <= length else 0
        elif done:
            self.runner.logger.warning(
                f"An epoch has {length} batches instead of {batches_per_epoch}: epoch {self._epoch + 1} starts anew."
            )

    @property
    def _batches(self) -> Batches:
        return self.dataloader.batch_sampler

    def run_epoch(self) -> None:
        self._batches.epoch = self._epoch
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for number, batch in enumerate(self.dataloader, self._batches.start):
            self.run_iter(number, batch)
        self._batches.start = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, *args: Any) -> None:
        _seed_iteration(self)
        super().run_iter(*args)


class IterBasedTrainLoop(mmengine.runner.IterBasedTrainLoop):
    """As mmengine's, but resumes at its batch with any sampler, without reading those before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dataloader.batch_sampler.endless = True
        self.dataloader_iterator = _Stream(self.dataloader)

    def run_iter(self, *args: Any) -> None:
        _seed_iteration(self)
        super().run_iter(*args)


class _Stream:
    """What the loop by iterations draws its batches from."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.iterator: Iterator[Any] | None = None

    def skip_iter(self, count: int) -> None:
        self.loader.batch_sampler.start = count

    def __next__(self) -> Any:
        if self.iterator is None:  # workers start reading here, so not before it is known where
            self.iterator = iter(self.loader)
        return next(self.iterator)


def _seed_iteration(loop: EpochBasedTrainLoop | IterBasedTrainLoop) -> None:
    seed_all(loop.runner.seed, "iteration", get_rank(), loop.iter)


#: mmengine's loops by what configs call them.
LOOPS = {"EpochBasedTrainLoop": EpochBasedTrainLoop, "IterBasedTrainLoop": IterBasedTrainLoop}


class StepCheckpointHook(Hook):
    """Keeps `latest.pth` in the work folder, for runs that may be killed inside an epoch.

    Args:
        interval: Iterations between two savings.
    """

    priority = "VERY_LOW"  # after the learning rates have been stepped

    def __init__(self, interval: int) -> None:
        self.interval = interval

    def after_train_iter(self, runner: Any, batch_idx: int, **_: Any) -> None:
        if self.every_n_train_iters(runner, self.interval):
            runner.save_checkpoint(runner.work_dir, LATEST, by_epoch=False)
            if is_main_process():
                write_text(Path(runner.work_dir) / "last_checkpoint", str(Path(runner.work_dir) / LATEST))

    def after_train(self, runner: Any) -> None:
        """Leave nothing that the checkpoint of the last epoch replaces."""
        folder = Path(runner.work_dir)
        last = folder / "last_checkpoint"
        if is_main_process() and last.is_file() and Path(last.read_text()).name != LATEST:
            (folder / LATEST).unlink(missing_ok=True)


class GradientHook(Hook):
    """Saves the gradients that a checkpoint between two steps of accumulation needs; of several processes, rank 0's."""

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        should_update = getattr(runner.optim_wrapper, "should_update", None)
        if should_update is not None and not should_update():
            grads = {name: p.grad.cpu() for name, p in _model(runner).named_parameters() if p.grad is not None}
            checkpoint["gradients"] = grads

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        grads = checkpoint.get("gradients", {}) if runner.resuming else {}
        for name, parameter in _model(runner).named_parameters():
            if name in grads:
                parameter.grad = grads[name].to(parameter.device, parameter.dtype)


class ProofHook(Hook):
    """Notes that an iteration of the current loop has gone through, so that what fails later is no matter of config."""

    def before_run(self, runner: Any) -> None:
        runner.went_through = False

    before_train = before_val = before_test = before_run

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        runner.went_through = True

    def after_val_epoch(self, runner: Any, *_: Any, **__: Any) -> None:
        runner.went_through = True

    after_test_epoch = after_val_epoch


def _model(runner: Any) -> Any:
    return getattr(runner.model, "module", runner.model)
