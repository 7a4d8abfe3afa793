"""From resolved options to the parts of a run: data, model with its starting weights, loaders."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.layers import convert_sync_batchnorm
from timm.models import load_state_dict, resolve_model_input_args
from torch import nn

from backbones.checkpoints.report import LoadReport, load_report, record_loading
from backbones.train.data.datasets import (
    DataError,
    ImageSource,
    StreamSource,
    UnreadableImages,
    build_dataset,
    check_same_classes,
    data_name,
)
from backbones.train.data.images import guard_posterize
from backbones.train.data.loader import EvalLoader, TrainLoader
from backbones.train.evaluation.models import ModelError, check_model_name, refusals_named
from backbones.train.loop.distributed import World
from backbones.train.options import TrainOptions


class AugmentationSplits:
    """An image without strong augmentation, and several times with it (AugMix; Hendrycks et al., arXiv:1912.02781).

    Args:
        transforms: timm's three stages: crop and flip, shared by all; strong augmentation; conversion and erasing.
        count: Number of splits, the first of them without the second stage.
    """

    def __init__(self, transforms: Sequence[Callable], count: int) -> None:
        self.transforms, self.count = transforms, count

    def __call__(self, image: Any) -> torch.Tensor:
        """(count, C, H, W) of a PIL image."""
        shared, strong, last = self.transforms
        image = shared(image)
        return torch.stack([last(image), *(last(strong(image)) for _ in range(self.count - 1))])


class SubsetSource(ImageSource):
    """A fixed few images of a dataset, evenly spread over it."""

    def __init__(self, source: ImageSource, count: int) -> None:
        self.source, self.mode = source, source.mode
        self.indices = [i * len(source) // count for i in range(count)]
        super().__init__(source.class_names, len(source))

    def _read(self, index: int) -> tuple[Any, int]:
        return self.source._read(self.indices[index])

    def __len__(self) -> int:
        return len(self.indices)

    def filename(self, index: int) -> str:
        return self.source.filename(self.indices[index])


@dataclass
class Data:
    """The two splits and what is known about them."""

    train: ImageSource | StreamSource
    val: ImageSource | StreamSource
    class_names: list[str]
    num_classes: int
    name: str


def build_data(options: TrainOptions, world: World) -> Data:
    """Opens both splits.

    Raises:
        DataError: When they are missing, do not fit each other, or do not fit ``--num-classes``.
    """
    name, root = options.dataset or options.data or options.data_dir, options.data_dir
    if options.dataset and options.data and not options.data_dir:
        root = options.data
    shared = {
        "in_chans": options.in_chans,
        "data_dir": root,
        "class_map": options.class_map,
        "input_key": options.input_key,
        "target_key": options.target_key,
        "download": options.dataset_download or None,
        "exif_transpose": bool(options.exif_transpose),
    }
    seed = {"batch_size": options.batch_size, "seed": options.seed}
    streamed = (name or "").partition("/")[0].lower() in ("wds", "hfids", "tfds")
    train = build_dataset(
        name,
        options.train_split,
        is_training=True,
        num_samples=options.train_num_samples,
        **shared,
        **(seed if streamed else {}),
    )
    if options.overfit:
        if isinstance(train, StreamSource) or options.overfit > len(train):
            raise DataError(f"--overfit {options.overfit} needs random access to at least as many images.")
        train = SubsetSource(train, options.overfit)
        val: ImageSource | StreamSource = train
    else:
        val = build_dataset(name, options.val_split, num_samples=options.val_num_samples, **shared)
        check_same_classes(train, val)
    classes = len(train.class_names)
    if options.num_classes is None and not classes:
        raise DataError(f"{name} does not say how many classes it has: give --num-classes.")
    if options.num_classes is not None and classes > options.num_classes:
        raise DataError(f"The data has {classes} classes, more than --num-classes {options.num_classes}.")
    return Data(train, val, train.class_names, options.num_classes or classes, data_name(name))


def limit_unreadable(data: Data, limit: int) -> None:
    """Sets how many unreadable images are tolerated."""
    for source in (data.train, data.val):
        source.unreadable = UnreadableImages(len(source) if isinstance(source, ImageSource) else 1, limit)


def log_unreadable(data: Data, folder: str | os.PathLike) -> None:
    """Names unreadable images in files of a folder."""
    for split, source in (("train", data.train), ("val", data.val)):
        source.unreadable.log = Path(folder, f"unreadable_{split}.txt")


def build_model(options: TrainOptions, num_classes: int, load: bool = True) -> tuple[nn.Module, LoadReport | None]:
    """Creates the model and loads its starting weights.

    Args:
        options: Resolved options.
        num_classes: Outputs.
        load: False leaves out starting weights, when a checkpoint follows anyway.

    Raises:
        ModelError: For an unknown model, arguments it does not take, or weights that do not fit.
    """
    name = check_model_name(options.model)
    kwargs: dict[str, Any] = dict(options.model_kwargs)
    kwargs.update(num_classes=num_classes, in_chans=options.in_chans, drop_path_rate=options.drop_path)
    kwargs.update(global_pool=options.gp, drop_rate=options.drop or None)
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    if options.size:
        with refusals_named(name, options.model_kwargs):
            kwargs = resolve_model_input_args(name, {"input_size": (options.in_chans, *options.size)}, **kwargs)
        name = kwargs.pop("model_name")
    model, report = _load_model(options, name, kwargs, num_classes, load)
    if load:
        _init_head(options, model)
    return model, report


def _init_head(options: TrainOptions, model: nn.Module) -> None:
    """Scales the classifier's starting weights and sets its bias, as the options say."""
    if options.head_init_scale is None and options.head_init_bias is None:
        return
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise ModelError(f"{options.model} has no linear classifier: leave out --head-init-scale and --head-init-bias.")
    with torch.no_grad():
        if options.head_init_scale is not None:
            classifier.weight.mul_(options.head_init_scale)
            classifier.bias.mul_(options.head_init_scale)
        if options.head_init_bias is not None:
            classifier.bias.fill_(options.head_init_bias)


def _load_model(
    options: TrainOptions, name: str, kwargs: dict[str, Any], num_classes: int, load: bool
) -> tuple[nn.Module, LoadReport | None]:
    torch.manual_seed(options.seed)
    if not load or not (options.pretrained or options.pretrained_path):
        model = _create(name, options.model_kwargs, **kwargs)
        if load and options.initial_checkpoint:
            return model, _load_exactly(model, options.initial_checkpoint)
        return model, None
    path = options.pretrained_path
    if path and not os.path.isfile(path):
        raise ModelError(f"--pretrained-path {path} does not exist.")
    # A file whose classifier has our number of classes is loaded whole; of another one, all but the classifier.
    attempts = [{"file": path, "num_classes": classes} for classes in (num_classes, -1)] if path else [{}]
    cfg = kwargs.pop("pretrained_cfg", None)
    for number, overlay in enumerate(attempts):
        try:
            torch.manual_seed(options.seed)
            with record_loading() as reports:
                loading = {"pretrained": True, "pretrained_cfg": cfg, "pretrained_cfg_overlay": overlay}
                model = _create(name, options.model_kwargs, **loading, **kwargs)
            return model, reports[-1] if reports else None
        except ModelError:
            raise
        except RuntimeError as error:
            if number + 1 == len(attempts):
                message = " ".join(str(error).split())
                raise ModelError(f"Cannot load {path or 'published weights'} into {name}: {message[:600]}") from error
    raise AssertionError


def _create(name: str, arguments: Mapping[str, Any], **kwargs: Any) -> nn.Module:
    try:
        with refusals_named(name, {} if kwargs.get("pretrained") else arguments):
            return timm.create_model(name, **kwargs)
    except OSError as error:  # the hub's errors for no connection and no repository derive from it
        raise ModelError(
            f"Cannot fetch the weights of {name} ({str(error).splitlines()[0]}): give a file with --pretrained-path."
        ) from error


def _load_exactly(model: nn.Module, path: str) -> LoadReport:
    if not os.path.isfile(path):
        raise ModelError(f"--initial-checkpoint {path} does not exist.")
    report = load_report(model, load_state_dict(path, weights_only=True), source=path)
    if not report.complete:
        raise ModelError(
            f"--initial-checkpoint {path} does not fit ({report.matched} of {report.total} keys match, "
            f"{len(report.unexpected)} unexpected): --pretrained-path adapts key names and classifier."
        )
    model.load_state_dict(load_state_dict(path, weights_only=True))
    return report


def place_model(model: nn.Module, options: TrainOptions, world: World) -> nn.Module:
    """Moves the model to its device in its memory format, with checkpointing and SyncBatchNorm as asked."""
    if options.grad_checkpointing:
        if not hasattr(model, "set_grad_checkpointing"):
            raise ModelError(f"{options.model} has no gradient checkpointing: drop --grad-checkpointing.")
        model.set_grad_checkpointing(True)
    if options.sync_bn and world.size > 1:
        if world.device.type != "cuda":
            raise ModelError("--sync-bn works on GPUs only: drop it (--no-sync-bn).")
        model = convert_sync_batchnorm(model)
    layout = torch.channels_last if options.channels_last else torch.preserve_format
    dtype = getattr(torch, options.model_dtype) if options.model_dtype else None
    return model.to(world.device, dtype, memory_format=layout)


def data_config(options: TrainOptions, model: nn.Module) -> dict[str, Any]:
    """timm's preprocessing of the model, with the options' overrides: input_size, mean, std, interpolation, crop."""
    names = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    args = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.size:
        args["input_size"] = (options.in_chans, *options.size)
    config = resolve_data_config(args, model=model)
    config["input_size"] = (options.in_chans, *config["input_size"][1:])
    for key in ("mean", "std"):
        values = config[key]
        if len(values) != options.in_chans:  # a grey image takes the mean over the colours
            config[key] = (sum(values) / len(values),) * options.in_chans
    return config


def build_loaders(
    options: TrainOptions, data: Data, config: dict[str, Any], world: World
) -> tuple[TrainLoader, EvalLoader]:
    """Training and evaluation batches as the options say; ``--overfit`` trains on what evaluation sees."""
    size = config["input_size"]
    common = {"mean": config["mean"], "std": config["std"]}
    evaluation = create_transform(
        size,
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        **common,
    )
    training = evaluation
    if not options.overfit:
        plain = options.no_aug or not options.train_interpolation
        training = create_transform(
            size,
            is_training=True,
            no_aug=options.no_aug,
            train_crop_mode=options.train_crop_mode,
            scale=options.scale,
            ratio=options.ratio,
            hflip=options.hflip,
            vflip=options.vflip,
            color_jitter=options.color_jitter,
            color_jitter_prob=options.color_jitter_prob,
            grayscale_prob=options.grayscale_prob,
            gaussian_blur_prob=options.gaussian_blur_prob,
            auto_augment=options.aa,
            interpolation=config["interpolation"] if plain else options.train_interpolation,
            re_prob=options.reprob,
            re_mode=options.remode,
            re_count=options.recount,
            separate=bool(options.aug_splits),
            **common,
        )
        if options.aug_splits:
            training = AugmentationSplits([guard_posterize(stage) for stage in training], options.aug_splits)
        else:
            training = guard_posterize(training)
    pin = options.pin_mem if options.pin_mem is not None else world.device.type == "cuda"
    where = {"rank": world.rank, "world": world.size, "workers": options.workers, "pin_memory": pin}
    train = TrainLoader(
        data.train,
        training,
        options.batch_size,
        accum=options.grad_accum_steps,
        seed=options.seed,
        repeats=options.aug_repeats,
        **where,
    )
    val = EvalLoader(data.val, evaluation, options.validation_batch_size or options.batch_size, **where)
    return train, val
