"""mmengine's Runner as the tools start it: checked data, whole checkpoints, any number of processes, CPU or GPU."""

from __future__ import annotations

import importlib
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine.runner
import torch
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmengine.runner import BaseLoop, find_latest_checkpoint
from torch import nn
from torch.utils.data import DataLoader

from backbones.checkpoints import WeightsError
from backbones.dense import loading, loops
from backbones.dense.checkpoint import load_state, load_weights, read
from backbones.dense.errors import DenseError
from backbones.dense.options import arguments_of, names_of, registries
from backbones.utils.text import first_line, nearest

_RUNS = itertools.count(1)
_SHOWN = 300  # characters of an error of others


class Runner(mmengine.runner.Runner):
    """mmengine's Runner that resumes exactly, refuses another model's checkpoint, and leaves no part of one behind."""

    went_through = False  #: whether an iteration of the current loop has

    @property
    def resuming(self) -> bool:
        """Whether the checkpoint that is loaded is one to go on from."""
        return self._resume

    @staticmethod
    def build_dataloader(dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False) -> DataLoader:
        return loading.resumable(mmengine.runner.Runner.build_dataloader(dataloader, seed, diff_rank_seed), seed or 0)

    def build_train_loop(self, loop: Any) -> BaseLoop:
        if isinstance(loop, dict):
            loop = dict(loop)
            if "by_epoch" in loop and "type" not in loop:
                loop["type"] = "EpochBasedTrainLoop" if loop.pop("by_epoch") else "IterBasedTrainLoop"
            loop["type"] = loops.LOOPS.get(loop.get("type"), loop.get("type"))
        return super().build_train_loop(loop)

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        super().register_hooks(*args, **kwargs)
        self.register_hook(loops.GradientHook())
        self.register_hook(loops.ProofHook())

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        super().resume(filename, *args, **kwargs)
        if isinstance(self.train_loop, loops.EpochBasedTrainLoop):
            self.train_loop.resume(self._batches_per_epoch)

    def load_checkpoint(self, filename: str, *_: Any, **__: Any) -> dict[str, Any]:
        """Load weights to start or to go on from.

        Raises:
            WeightsError: They are another model's, or not finite.
        """
        checkpoint = read(filename)
        self._batches_per_epoch = checkpoint.get("meta", {}).get("batches_per_epoch")
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        load_state(getattr(self.model, "module", self.model), checkpoint, filename, fine_tuning=not self.resuming)
        self._has_loaded = True
        self.logger.info(f"loaded {filename}")
        return checkpoint

    @master_only
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, meta: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        meta = {**(meta or {}), "batches_per_epoch": len(self.train_dataloader)}
        if "://" in str(out_dir):
            return super().save_checkpoint(out_dir, filename, *args, meta=meta, **kwargs)
        aside = f".{filename}.tmp"
        try:
            super().save_checkpoint(out_dir, aside, *args, meta=meta, **kwargs)
            os.replace(Path(out_dir) / aside, Path(out_dir) / filename)
        finally:
            (Path(out_dir) / aside).unlink(missing_ok=True)


def build(
    cfg: Config,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: str | None = None,
    save_every_steps: int = 0,
) -> Runner:
    """The runner of a config, on what the machine has: `torchrun`'s processes, GPUs, or the CPU.

    Args:
        cfg: The config; the run goes to its `work_dir`.
        amp: Train in mixed precision.
        auto_scale_lr: Scale the learning rate to the batch, from that which the config was made for.
        resume: "auto" to go on from the last checkpoint in `work_dir` where there is one, or a checkpoint.
        save_every_steps: Also save every so many iterations, 0 for not.

    Raises:
        DenseError: The model cannot be built from the config, or there is nothing to resume from.
        WeightsError: Its starting weights cannot be loaded.
    """
    adapt(cfg, amp)
    for key in ("max_epochs", "max_iters", "val_interval"):
        value = (cfg.get("train_cfg") or {}).get(key, 1)
        if not isinstance(value, int) or value < 1:
            raise DenseError(f"train_cfg.{key} is a whole number from 1 on, not {value!r}: correct it.")
    if auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise DenseError("The config has no auto_scale_lr.base_batch_size to scale the learning rate from.")
        cfg.auto_scale_lr.enable = True
    if resume:
        _set_resume(cfg, resume)
    _start_processes(cfg)
    _name_run(cfg)
    with translated():
        runner = Runner.from_cfg(cfg)
        check_neck(runner.model, cfg)
    if save_every_steps:
        runner.register_hook(loops.StepCheckpointHook(save_every_steps), priority="VERY_LOW")
    if cfg.get("optim_wrapper"):
        _remark_batch(runner, cfg)
    return runner


def build_model(cfg: Config, checkpoint: str | None = None, device: str | None = None) -> nn.Module:
    """The detector or segmentor of a config in evaluation mode, with the weights and the classes of a checkpoint.

    Raises:
        DenseError: The model cannot be built from the config.
        WeightsError: The checkpoint cannot be read, or is another model's.
    """
    from backbones.dense import costs

    init_default_scope(cfg.default_scope)
    with translated():
        model = costs.build_model(cfg)
        check_neck(model, cfg)
    model.dataset_meta = load_weights(model, checkpoint) if checkpoint else {}
    model.cfg = cfg
    return model.to(device or default_device()).eval()


def check_device(name: str | None) -> None:
    """Make sure that a device can be used.

    Raises:
        DenseError: It is unknown, or not there.
    """
    try:
        if name is not None:
            torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error).partition(". ")[0]
        raise DenseError(f"Device {name!r} cannot be used ({reason}): try --device cpu.") from error


def without_starting_weights(cfg: Config) -> Config:
    """The config whose model gets a checkpoint with every weight, so that nothing is fetched to start from."""
    for key in ("pretrained", "init_cfg"):
        cfg.model.backbone.pop(key, None)
    return cfg


def default_device() -> str:
    """The GPU, where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def adapt(cfg: Config, amp: bool) -> None:
    """Mixed precision where asked for; on a CPU, without what mmengine has for GPUs only."""
    wrapper = cfg.get("optim_wrapper")
    if amp and wrapper:
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
    if torch.cuda.is_available():
        return
    if wrapper and wrapper.get("type") == "AmpOptimWrapper":
        print_log("Mixed precision needs a GPU: training in float32.", logger="current")
        wrapper.type = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(key, None)
    cfg.sync_bn = None


def _set_resume(cfg: Config, resume: str) -> None:
    cfg.resume = True
    if resume != "auto":
        if "://" not in resume and not Path(resume).is_file():
            raise DenseError(f"There is no checkpoint {resume} to resume from.")
        cfg.load_from = resume
    else:
        last = find_latest_checkpoint(cfg.work_dir)
        if last is None:
            print_log(f"{cfg.work_dir} has no checkpoint yet: training starts anew.", logger="current")
            cfg.resume = False
            return
        # The file names an absolute path, which is wrong once the folder was moved.
        found = [path for path in (Path(last), Path(cfg.work_dir) / Path(last).name) if path.is_file()]
        if not found:
            raise DenseError(
                f"{cfg.work_dir}/last_checkpoint names {last}, which is not there: name one by --resume FILE."
            )
        cfg.load_from = str(found[0])
    checkpoint = read(cfg.load_from)
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict) or not {"epoch", "iter"} <= meta.keys() or "optimizer" not in checkpoint:
        raise DenseError(
            f"{cfg.load_from} holds weights, but not the state of a training: to start from them, leave out --resume "
            "and give --cfg-options load_from=FILE."
        )
    if meta.get("seed") is not None:  # before the loaders are built, which need it
        cfg.setdefault("randomness", {})["seed"] = meta["seed"]


def _start_processes(cfg: Config) -> None:
    """Use `torchrun`'s processes; mmengine starts them for GPUs only."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        cfg.launcher = "none"
        return
    cfg.launcher = "pytorch"
    if not torch.cuda.is_available():
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        cfg.model_wrapper_cfg = dict(
            type="MMDistributedDataParallel",
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )


def _name_run(cfg: Config) -> None:
    """Names apart the runs that one Python process starts.

    mmengine keeps loggers, registry scopes and visualizers by a run's name and the second it began: of two runs of one
    name within a second, the later would get those of the earlier.
    """
    number = next(_RUNS)
    if number > 1:
        cfg.experiment_name = f"{cfg.get('experiment_name') or Path(cfg.filename or 'run').stem}_{number}"


def _remark_batch(runner: Runner, cfg: Config) -> None:
    base = cfg.get("auto_scale_lr", {}).get("base_batch_size")
    batch = cfg.train_dataloader.batch_size * runner.world_size * cfg.optim_wrapper.get("accumulative_counts", 1)
    if base and batch != base and not cfg.auto_scale_lr.get("enable"):
        runner.logger.warning(
            f"The learning rate is meant for batches of {base} images, and this run has {batch}: "
            "--auto-scale-lr scales it."
        )


def check_neck(model: nn.Module, cfg: Config) -> None:
    """Make sure that what follows the backbone takes its channels.

    Raises:
        DenseError: It does not.
    """
    backbone = getattr(model, "backbone", None)
    channels = getattr(backbone, "channels", None)
    part = "neck" if cfg.model.get("neck") else "decode_head"
    wanted = (cfg.model.get(part) or {}).get("in_channels")
    if channels is None or not isinstance(wanted, list | tuple) or list(wanted) == list(channels):
        return
    indices = (cfg.model.get(part) or {}).get("in_index")
    if indices is not None and all(i < len(channels) for i in indices):
        channels = [channels[i] for i in indices]
    if list(wanted) != list(channels):
        raise DenseError(
            f"model.{part}.in_channels is {list(wanted)}, but {backbone.name} gives {list(channels)}: "
            f"set model.{part}.in_channels to that."
        )


@contextmanager
def translated(runner: Runner | None = None) -> Iterator[None]:
    """Turn what is raised for a mistake of the user into one sentence.

    Args:
        runner: What runs inside, if it is more than building: what fails before the first iteration of a loop has gone
            through is taken for a mistake in the config; after it, for one in the program, and raised as it is.

    Raises:
        DenseError: With that sentence.
    """
    try:
        yield
    except WeightsError:
        raise
    except DenseError as error:  # out of a loader's process, it comes with the traceback there
        raise DenseError(str(error).rstrip().rpartition("DenseError: ")[2]) from error
    except Exception as error:
        sentence = _known_failure(error)
        if sentence is None and (runner is None or not runner.went_through):
            sentence = _config_failure(error)
        if sentence is None:
            raise
        raise DenseError(sentence) from error


def _known_failure(error: Exception) -> str | None:
    """What to tell of failures of the machine, which may come at any time."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return "Out of memory: give a smaller train_dataloader.batch_size or images, or --amp."
    if re.search(r"DataLoader worker .*(killed by signal|exited unexpectedly)", text):
        return (
            "A process that loads data was killed, as happens when memory or /dev/shm is full: "
            "give fewer by --cfg-options train_dataloader.num_workers=N."
        )
    if "PytorchStreamWriter" in text or "No space left" in text:
        return "A checkpoint cannot be written whole: make room on the disk, and go on with --resume."
    return None


def _config_failure(error: Exception) -> str:
    """What to tell of an error that building or a first iteration met."""
    text = " ".join(str(error).strip("'\"").split())
    owners = re.findall(r"class `(\w+)` in ([\w./]+?)\.py: ", text)
    reason = re.sub(r"class `\w+` in [\w./]+: ", "", text).strip()
    unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", reason)
    absent = re.match(r"(\S+) is not in the (.+?) registry", reason)
    if unknown and owners:
        target = getattr(importlib.import_module(owners[-1][1].replace("/", ".")), owners[-1][0], None)
        near = nearest(unknown[2], arguments_of(target)[0] if target else (), count=1, cutoff=0.6)
        remedy = f"did you mean {near[0]}?" if near else "take it out of the config."
        return f"{owners[-1][0]} has no {unknown[2]}: {remedy}"
    if absent:
        roots = [registry for registry in registries() if registry.name == absent[2].rpartition("::")[2]]
        near = nearest(absent[1], set().union(*map(names_of, roots)), count=1, cutoff=0.6)
        remedy = f"did you mean {near[0]}?" if near else "correct the type in the config."
        return f"{absent[1]} is not in the {absent[2]} registry: {remedy}"
    if _from_us(error):
        return reason
    who = owners[-1][0] if owners else type(error).__name__
    said = (reason if len(reason) <= _SHOWN else f"{reason[:_SHOWN]}...") or "no reason is given"
    return f"The config cannot be run ({who}: {said.rstrip('.')}): correct the option that this is about."


def _from_us(error: BaseException) -> bool:
    """Whether the error was raised in this package's backbone."""
    frame = error.__traceback__
    files = []
    while frame is not None:
        files.append(Path(frame.tb_frame.f_code.co_filename).name)
        frame = frame.tb_next
    return bool({"features.py", "backbone.py", "optim.py"} & set(files[-4:])) and isinstance(error, ValueError)
