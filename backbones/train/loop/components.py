"""From resolved options to the parts of a run: data, model with its starting weights, loaders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.models import load_state_dict, resolve_model_input_args
from torch import nn

from backbones.checkpoints.report import LoadReport, load_report, record_loading
from backbones.train.data.datasets import (
    DataError,
    ImageSource,
    StreamSource,
    SubsetSource,
    build_dataset,
    check_same_classes,
    data_name,
    name_and_root,
)
from backbones.train.data.loader import EvalLoader, TrainLoader
from backbones.train.data.transforms import evaluation_transform, training_transform
from backbones.train.evaluation.models import ModelError, check_model_name, creating
from backbones.train.loop.distributed import World
from backbones.train.options import TrainOptions

_REMEDY = "give a file with --pretrained-path"


@dataclass
class Data:
    """The two splits and what is known about them."""

    train: ImageSource | StreamSource
    val: ImageSource | StreamSource
    class_names: list[str]
    num_classes: int
    name: str


def build_data(options: TrainOptions) -> Data:
    """Opens both splits.

    Raises:
        DataError: When they are missing, do not fit each other, or do not fit ``--num-classes``.
    """
    name, root = name_and_root(options.data, options.data_dir, options.dataset)
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
        train = SubsetSource(train, [i * len(train) // options.overfit for i in range(options.overfit)])
        val: ImageSource | StreamSource = train
    else:
        val = build_dataset(name, options.val_split, num_samples=options.val_num_samples, **shared)
        check_same_classes(train, val)
    for source in (train, val):
        source.unreadable.limit = options.max_unreadable
    classes = len(train.class_names)
    if options.num_classes is None and not classes:
        raise DataError(f"{name} does not say how many classes it has: give --num-classes.")
    if options.num_classes is not None and classes > options.num_classes:
        raise DataError(f"The data has {classes} classes, more than --num-classes {options.num_classes}.")
    return Data(train, val, train.class_names, options.num_classes or classes, data_name(name))


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
        with creating(name, options.model_kwargs):
            kwargs = resolve_model_input_args(name, {"input_size": (options.in_chans, *options.size)}, **kwargs)
        name = kwargs.pop("model_name")
    model, report = _load_model(options, name, kwargs, num_classes, load)
    if load:
        _init_head(options, model)
    _freeze(options, model)
    return model, report


def _freeze(options: TrainOptions, model: nn.Module) -> None:
    """Leaves parameters out of training, as the options say."""
    if options.freeze is None:
        return
    names = [name for name, _ in model.named_parameters()]
    frozen = {name for name in names if re.search(options.freeze, name)}
    if not frozen or len(frozen) == len(names):
        raise ModelError(
            f"--freeze {options.freeze} matches {'all' if frozen else 'none'} of the parameters of {options.model}, "
            f"whose names are such as {names[0]} and {names[-1]}."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


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
        with creating(name, options.model_kwargs):
            model = timm.create_model(name, **kwargs)
        exactly = load and options.initial_checkpoint
        return model, _load_exactly(model, options.initial_checkpoint) if exactly else None
    path = options.pretrained_path
    if path and not os.path.isfile(path):
        raise ModelError(f"--pretrained-path {path} does not exist.")
    kwargs["pretrained_cfg"] = kwargs.get("pretrained_cfg")
    # A file whose classifier has our number of classes is loaded whole; of another one, all but the classifier.
    overlays = [{"file": path, "num_classes": classes} for classes in (num_classes, -1)] if path else [{}]
    for overlay in overlays:
        last = overlay is overlays[-1]
        loads, arguments = (path or "published weights", options.model_kwargs) if last else (None, {})
        try:
            torch.manual_seed(options.seed)
            with record_loading() as reports, creating(name, arguments, loads=loads, remedy=_REMEDY):
                model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
            return model, reports[-1] if reports else None
        except RuntimeError as error:
            if last or isinstance(error, ModelError):
                raise
    raise AssertionError


def _load_exactly(model: nn.Module, path: str) -> LoadReport:
    if not os.path.isfile(path):
        raise ModelError(f"--initial-checkpoint {path} does not exist.")
    state = load_state_dict(path, weights_only=True)
    report = load_report(model, state, source=path)
    if not report.complete:
        raise ModelError(
            f"--initial-checkpoint {path} does not fit ({report.matched} of {report.total} keys match, "
            f"{len(report.unexpected)} unexpected): --pretrained-path adapts key names and classifier."
        )
    model.load_state_dict(state)
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


def build_loaders(
    options: TrainOptions, data: Data, config: dict[str, Any], world: World
) -> tuple[TrainLoader, EvalLoader]:
    """Training and evaluation batches as the options say."""
    pin = options.pin_mem if options.pin_mem is not None else world.device.type == "cuda"
    where = {"rank": world.rank, "world": world.size, "workers": options.workers, "pin_memory": pin}
    train = TrainLoader(
        data.train,
        training_transform(options, config),
        options.batch_size,
        accum=options.grad_accum_steps,
        seed=options.seed,
        repeats=options.aug_repeats,
        **where,
    )
    size = options.validation_batch_size or options.batch_size
    return train, EvalLoader(data.val, evaluation_transform(config), size, **where)
