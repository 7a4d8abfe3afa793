"""Every training option, once: its name (timm's where timm has it), type, default, bounds, choices and help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backbones.train.options import names
from backbones.train.options.option import OptionError, Options, option
from backbones.train.options.shared import (
    CHANNELS,
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    ImageOptions,
    MachineOptions,
)


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options, heading="data"):
    """What is trained and evaluated on."""

    data: str | None = option(
        None, "folder with train/ and val/, a timm scheme (wds/…, hfds/…, torch/…), or nothing: digits"
    )
    data_dir: str | None = option(
        None, "folder with train/ and val/, or the root of the scheme that --data or --dataset names"
    )
    dataset: str | None = option(None, "timm dataset name; the same as a scheme in --data", short=("-d",))
    train_split: str = option("train", "name of the training split")
    val_split: str = option("val", "name of the evaluation split")
    dataset_download: bool = option(False, "let torch/ and tfds/ datasets download themselves")
    class_map: str | None = option(None, "file that maps class names to labels")
    input_key: str | None = option(None, "key of the images in hfds/ and wds/ data")
    target_key: str | None = option(None, "key of the labels in hfds/ and wds/ data")
    train_num_samples: int | None = option(None, "images of a streamed training split that does not say", within=COUNT)
    val_num_samples: int | None = option(None, "images of a streamed evaluation split that does not say", within=COUNT)
    max_unreadable: int = option(50, "unreadable images that are skipped before the run stops", within=NOT_NEGATIVE)
    workers: int = option(2, "loader processes of each process", within=NOT_NEGATIVE, short=("-j",))
    pin_mem: bool | None = option(None, "page-locked batches (default: on a GPU)")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options, heading="model"):
    """The model and its starting weights."""

    model: str = option("nat_m", "timm model name, ours included", rule=names.model, what=names.A_MODEL)
    model_kwargs: Mapping[str, Any] = option({}, "more arguments of the model: key=value …", rule=names.model_arguments)
    pretrained: bool = option(False, "start from the model's published weights")
    pretrained_path: str | None = option(
        None, "weights file to load as if published: authors' key names, other class counts"
    )
    initial_checkpoint: str | None = option(None, "weights file with exactly this model's keys")
    num_classes: int | None = option(None, "classes (default: the data's)", within=COUNT)
    in_chans: int = option(3, "image channels", **CHANNELS)
    gp: str | None = option(None, "global pooling of the head")
    head_init_scale: float | None = option(None, "factor of the classifier's starting weights", within=NOT_NEGATIVE)
    head_init_bias: float | None = option(None, "starting bias of the classifier")
    drop: float = option(0.0, "dropout of the head", within="[0, 1)")
    drop_path: float | None = option(None, "stochastic depth", within="[0, 1)")
    freeze: str | None = option(
        None, "parameters that are not trained: a regular expression that their names match somewhere",
        rule=names.regex, metavar="REGEX",
    )  # fmt: skip
    aux_loss_weight: float = option(
        0.4, "weight of the auxiliary head's loss, for models that have one in training", within=NOT_NEGATIVE
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(Options, heading="optimiser"):
    """Batches and optimiser."""

    batch_size: int = option(128, "images of one forward pass of one process", within=COUNT, short=("-b",))
    validation_batch_size: int | None = option(None, "images of one evaluation batch", within=COUNT, short=("-vb",))
    grad_accum_steps: int = option(1, "forward passes of one optimiser step", within=COUNT)
    opt: str = option("adamw", "optimiser", rule=names.optimizer, what="an optimiser of timm.optim")
    opt_eps: float | None = option(None, "optimiser epsilon", within=NOT_NEGATIVE)
    opt_betas: tuple[float, ...] | None = option(None, "optimiser betas", within="[0, 1)")
    opt_kwargs: Mapping[str, Any] = option({}, "more arguments of the optimiser: key=value …")
    momentum: float = option(0.9, "optimiser momentum", within="[0, 1)")
    weight_decay: float = option(
        0.05, "weight decay; biases and one-dimensional weights are left out", within=NOT_NEGATIVE
    )
    layer_decay: float | None = option(None, "learning-rate factor from each layer to the one below", within="(0, 1]")
    layer_decay_min_scale: float = option(0.0, "floor of the layer decay", within="[0, 1]")
    clip_grad: float | None = option(None, "gradient clipping", within=POSITIVE)
    clip_mode: str = option("norm", "what --clip-grad limits", choices=("norm", "value", "agc"))


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(Options, heading="learning rate"):
    """The learning rate over the epochs."""

    lr: float | None = option(None, "learning rate as it is; overrides --lr-base", within=NOT_NEGATIVE)
    lr_base: float = option(1e-3, "learning rate at a global batch of --lr-base-size", within=NOT_NEGATIVE)
    lr_base_size: int = option(1024, "global batch that --lr-base is meant for", within=COUNT)
    lr_base_scale: str = option("linear", "scaling to the actual global batch", choices=("linear", "sqrt"))
    sched: str = option("cosine", "schedule of timm.scheduler", choices=names.SCHEDULERS)
    sched_on_updates: bool = option(False, "step the schedule every update, not every epoch")
    epochs: int = option(100, "epochs, without cool-down", within=COUNT)
    warmup_epochs: int = option(5, "epochs of linear warm-up", within=NOT_NEGATIVE)
    warmup_lr: float = option(1e-6, "learning rate at the start", within=NOT_NEGATIVE)
    warmup_prefix: bool = option(False, "add the warm-up to the epochs")
    cooldown_epochs: int = option(0, "epochs at the lowest rate, added at the end", within=NOT_NEGATIVE)
    min_lr: float = option(1e-5, "lowest learning rate", within=NOT_NEGATIVE)
    decay_epochs: float | None = option(
        None, "epochs between decays (step: 90), or of the decay phase (wsd, rsqrt: 0.2 of the schedule)",
        within=POSITIVE,
    )  # fmt: skip
    decay_milestones: tuple[int, ...] = option(
        (90, 180, 270), "epochs of decay (multistep)", within=COUNT, increasing=True
    )
    decay_rate: float = option(0.1, "factor of a decay; power of poly", within=POSITIVE, short=("--dr",))
    patience_epochs: int = option(10, "epochs of no gain before a decay (plateau)", within=NOT_NEGATIVE)
    lr_noise: tuple[float, ...] | None = option(None, "part of the schedule that gets noise", within="[0, 1]")
    lr_noise_pct: float = option(0.67, "limit of the noise", within=NOT_NEGATIVE)
    lr_noise_std: float = option(1.0, "standard deviation of the noise", within=NOT_NEGATIVE)
    lr_cycle_mul: float = option(1.0, "growth of cycles", within=POSITIVE)
    lr_cycle_decay: float = option(0.5, "decay of cycles", within="(0, 1]")
    lr_cycle_limit: int = option(1, "number of cycles", within=COUNT)
    lr_k_decay: float = option(1.0, "k-decay (cosine, poly)", within=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions(Options, heading="augmentation and loss"):
    """What is done to training images and labels, and the loss of labels."""

    no_aug: bool = option(False, "no augmentation at all")
    train_crop_mode: str | None = option(None, "crop of training images", choices=("rrc", "rkrc", "rkrr"))
    train_crop_padding: int | None = option(
        None, "pad training images by so many pixels on every side and crop at random, without resizing", within=COUNT
    )
    scale: tuple[float, float] = option((0.08, 1.0), "random resized crop: area", within="(0, 1]", increasing=True)
    ratio: tuple[float, float] = option(
        (3 / 4, 4 / 3), "random resized crop: aspect ratio", within=POSITIVE, increasing=True
    )
    hflip: float = option(0.5, "probability of a horizontal flip", within=PROBABILITY)
    vflip: float = option(0.0, "probability of a vertical flip", within=PROBABILITY)
    color_jitter: float | None = option(0.4, "colour jitter; not used together with --aa", within=NOT_NEGATIVE)
    color_jitter_prob: float | None = option(None, "probability of colour jitter", within=PROBABILITY)
    grayscale_prob: float = option(0.0, "probability of turning grey", within=PROBABILITY)
    gaussian_blur_prob: float = option(0.0, "probability of blur", within=PROBABILITY)
    aa: str | None = option(
        None,
        "AutoAugment, RandAugment, AugMix or 3-Augment policy of timm",
        rule=names.auto_augment,
        what=names.A_POLICY,
        metavar="POLICY",
    )
    aug_repeats: int = option(0, "repeated augmentation: times each image comes in a row", within=NOT_NEGATIVE)
    aug_splits: int = option(
        0, "each image once without --aa and colour jitter and this many times less one with (0: off)",
        within=NOT_NEGATIVE,
    )  # fmt: skip
    train_interpolation: str | None = option(
        "random", "resizing in training", choices=("random", *names.INTERPOLATIONS)
    )
    reprob: float = option(0.0, "probability of random erasing", within=PROBABILITY)
    remode: str = option("pixel", "random erasing fill", choices=("pixel", "rand", "const"))
    recount: int = option(1, "random erasing count", within=COUNT)
    mixup: float = option(0.0, "mixup alpha", within=NOT_NEGATIVE)
    cutmix: float = option(0.0, "cutmix alpha", within=NOT_NEGATIVE)
    cutmix_minmax: tuple[float, float] | None = option(
        None, "cutmix size range; overrides the alpha", within="[0, 1]", increasing=True
    )
    mixup_prob: float = option(1.0, "probability of mixing a batch", within=PROBABILITY)
    mixup_switch_prob: float = option(0.5, "probability of cutmix when both are on", within=PROBABILITY)
    mixup_mode: str = option("batch", "mix by", choices=("batch", "pair", "elem"))
    mixup_off_epoch: int = option(0, "epoch from which mixing is off (0: never)", within=NOT_NEGATIVE)
    smoothing: float = option(0.1, "label smoothing", within="[0, 1)")
    jsd_loss: bool = option(False, "Jensen-Shannon divergence between the splits, beside their cross-entropy")
    bce_loss: bool = option(False, "binary cross-entropy")
    bce_sum: bool = option(False, "sum the binary cross-entropy over classes")
    bce_pos_weight: float | None = option(
        None, "weight of the positive class in the binary cross-entropy", within=POSITIVE
    )
    bce_target_thresh: float | None = option(None, "threshold that binarises soft targets", within="[0, 1)")

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed by mixup or cutmix."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None


@dataclass(frozen=True, kw_only=True)
class AveragingOptions(Options, heading="averaging and distillation"):
    """Averaged weights and a teacher."""

    model_ema: bool = option(False, "keep an exponential moving average of the weights")
    model_ema_decay: float = option(0.9998, "decay of the average", within="(0, 1)")
    model_ema_warmup: bool = option(False, "let the decay grow at the start")
    kd_model_name: str | None = option(None, "timm model that teaches", rule=names.model, what=names.A_MODEL)
    kd_distill_type: str = option(
        "logit",
        "what the teacher teaches: its logits, its pooled features, or the logits of a distillation head",
        choices=("logit", "feature", "token"),
    )
    kd_token_distill_type: str = option(
        "soft", "a distillation head learns the teacher's probabilities or its choice", choices=("soft", "hard")
    )
    kd_img_size: int | None = option(
        None, "side in pixels that the teacher's images are resized to (default: the student's)", within=COUNT
    )
    kd_pretrained_path: str | None = option(None, "weights file of the teacher (default: its published weights)")
    kd_model_kwargs: Mapping[str, Any] = option({}, "more arguments of the teacher", rule=names.model_arguments)
    kd_temperature: float = option(1.0, "softmax temperature of distillation", within=POSITIVE)
    task_loss_weight: float | None = option(
        None, "weight of the label loss (alone: distillation gets the rest)", within=NOT_NEGATIVE
    )
    distill_loss_weight: float | None = option(None, "weight of the distillation loss", within=NOT_NEGATIVE)
    kd_patch_loss_weight: float = option(
        0.0, "weight of the mean square difference from the teacher's patch tokens, of vision transformers",
        within=NOT_NEGATIVE,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingMachineOptions(MachineOptions, heading="machine"):
    """Where and how the run computes."""

    grad_checkpointing: bool = option(False, "recompute activations in the backward pass")
    fsdp: bool = option(False, "shard weights, gradients and optimiser over the processes (FSDP2) instead of DDP")
    sync_bn: bool = option(False, "BatchNorm over all processes")
    dist_bn: str = option("reduce", "BatchNorm statistics before evaluation", choices=("reduce", "broadcast", "none"))
    no_ddp_bb: bool = option(False, "do not broadcast buffers in DDP")
    auto_batch_halving: bool = option(False, "out of memory: halve the batch and double the accumulation")
    seed: int = option(42, "seed of everything random", within=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options, heading="run"):
    """The run and its folder."""

    output: str = option("runs", "folder of all runs")
    experiment: str | None = option(None, "name of the run's folder (default: <model>-<data>-<size>)")
    resume: str | None = option(None, "continue a run: auto, or its folder", const="auto")
    overwrite: bool = option(False, "start anew in the folder of --experiment, deleting the run in it")
    save_every_steps: int = option(0, "also save every so many optimiser steps", within=NOT_NEGATIVE)
    val_interval: int = option(1, "epochs from one evaluation to the next; the last is always evaluated", within=COUNT)
    checkpoint_hist: int = option(
        1, "best epochs whose weights are kept; beyond one, as checkpoint-<epoch>.safetensors", within=COUNT
    )
    eval_metric: str = option("top1", "what best means", choices=("top1", "top5", "loss"))
    early_stop: int = option(0, "stop after so many epochs of no gain (0: never)", within=NOT_NEGATIVE)
    log_interval: int = option(20, "optimiser steps between log lines", within=COUNT)
    log_wandb: bool = option(False, "log to Weights & Biases too (pip install wandb)", rule=names.wandb)
    wandb_project: str | None = option(None, "its project (default: the name of the run's folder)")
    wandb_tags: tuple[str, ...] = option((), "tags of its run")
    overfit: int = option(
        0, "sanity check: train and evaluate on this many fixed images, without augmentation", within=NOT_NEGATIVE
    )
    dry_run: bool = option(False, "two steps and one evaluation batch, nothing kept")
    no_benchmark: bool = option(False, "leave out the benchmark row")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(
    DataOptions,
    ModelOptions,
    ImageOptions,
    OptimizerOptions,
    ScheduleOptions,
    AugmentationOptions,
    AveragingOptions,
    TrainingMachineOptions,
    RunOptions,
):
    """All options of a training run, resolved.

    Attributes:
        recipe: Name of the recipe that they came from, if any.
    """

    recipe: str | None = None

    def __post_init__(self) -> None:
        for problem in self._contradictions():
            raise OptionError(problem)

    def _contradictions(self):
        """A sentence for each pair of options that exclude each other."""
        if self.resume and self.overwrite:
            yield "--resume continues a run and --overwrite deletes it: give one of them."
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, 3, self.in_chans):
                yield f"--{name} has {len(values)} values for --in-chans {self.in_chans}: give 1 or {self.in_chans}."
        if self.kd_model_name is None:
            teaching = (
                "kd_img_size",
                "kd_pretrained_path",
                "kd_model_kwargs",
                "task_loss_weight",
                "distill_loss_weight",
                "kd_patch_loss_weight",
            )
            for name in teaching:
                if getattr(self, name) not in (None, {}, 0.0):
                    yield f"--{name.replace('_', '-')} needs a teacher: give --kd-model-name, or leave it out."
        elif (self.task_loss_weight or 0) > 1 and self.distill_loss_weight is None:
            yield (
                f"--task-loss-weight {self.task_loss_weight:g} leaves distillation the rest to 1, which is negative: "
                "give --distill-loss-weight too."
            )
        for name in ("bce_sum", "bce_pos_weight", "bce_target_thresh"):
            if not self.bce_loss and getattr(self, name) not in (None, False):
                yield f"--{name.replace('_', '-')} belongs to the binary cross-entropy: give --bce-loss too."
        if self.amp and self.model_dtype not in (None, "float32"):
            yield f"--model-dtype {self.model_dtype} is the precision of everything: give --no-amp with it."
        if self.fsdp and self.kd_distill_type == "feature":
            yield "--kd-distill-type feature does not go with --fsdp: drop one of them."
        if self.kd_patch_loss_weight and self.kd_distill_type != "logit":
            yield f"--kd-patch-loss-weight goes with --kd-distill-type logit, not {self.kd_distill_type}."
        if self.kd_patch_loss_weight and self.fsdp:
            yield "--kd-patch-loss-weight does not go with --fsdp: drop one of them."
        if self.aug_splits == 1 or (self.jsd_loss and not self.aug_splits):
            yield f"--aug-splits {self.aug_splits} are no splits: give 2 or more, or leave it and --jsd-loss out."
        if self.aug_splits and self.mixes:
            yield "--aug-splits does not go with mixup and cutmix: give --mixup 0 --cutmix 0."
        if self.train_crop_padding and (self.no_aug or self.train_crop_mode):
            other = "--no-aug" if self.no_aug else f"--train-crop-mode {self.train_crop_mode}"
            yield f"--train-crop-padding is a crop of its own: leave out {other}."
        if self.jsd_loss and self.bce_loss:
            yield "--jsd-loss and --bce-loss are two losses: give one of them."
        if self.mixes and self.batch_size % 2:
            yield f"Mixup and cutmix need an even --batch-size, not {self.batch_size}."
        if self.sched == "plateau" and self.val_interval > 1:
            yield "--sched plateau goes by the evaluation of every epoch: drop --val-interval."
        if not self.log_wandb and (self.wandb_project or self.wandb_tags):
            yield "--wandb-project and --wandb-tags belong to --log-wandb: give it too."
        if self.pretrained_path and self.initial_checkpoint:
            yield "--pretrained-path and --initial-checkpoint both give the starting weights: choose one."


#: Name and :class:`~backbones.train.options.option.Option` of every training option.
OPTIONS = TrainOptions.table()
