"""Every training option, once: its name (timm's where timm has it), type, default and help.

The command line, the recipes' known keys and their type checks are all made from :data:`OPTIONS`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class Option:
    """One option: flag ``--<name with hyphens>`` and recipe key ``<name>``.

    ``kind`` is int, float, str, bool, "floats", "ints" (lists), "dict" (key=value pairs) or "str?" (a flag whose value
    may be left out, then ``const``).
    """

    name: str
    kind: Any
    default: Any
    help: str
    group: str = ""
    choices: tuple[str, ...] | None = None
    short: tuple[str, ...] = ()
    const: Any = None

    def check(self, value: Any, where: str) -> Any:
        """The value in this option's type.

        Raises:
            ValueError: One sentence naming the key, the value, what is expected and where it came from.
        """
        if value is None or (value == "" and self.default is None):
            return None
        try:
            result = _convert(self.kind, value)
        except (TypeError, ValueError):
            kinds = {
                bool: "true or false",
                int: "an integer",
                float: "a number",
                str: "text",
                "floats": "a list of numbers",
                "ints": "a list of integers",
                "dict": "a mapping",
                "str?": "text",
            }
            want = kinds[self.kind]
            raise ValueError(f"{where}: {self.name} must be {want}, not {value!r}.") from None
        if self.choices and result not in self.choices:
            raise ValueError(f"{where}: {self.name} must be one of {', '.join(self.choices)}, not {value!r}.")
        return result


def _convert(kind: Any, value: Any) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise TypeError
    if kind in ("floats", "ints"):
        one = float if kind == "floats" else int
        if isinstance(value, str):
            raise TypeError
        return [one(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
    if kind == "dict":
        if isinstance(value, dict):
            return dict(value)
        raise TypeError
    if isinstance(value, (bool, list, dict)):
        raise TypeError
    if kind is int and float(value) != int(float(value)):
        raise ValueError
    return int(float(value)) if kind is int else float(value) if kind is float else str(value)


_TABLE: dict[str, list[tuple]] = {
    "data": [
        ("data", str, None, "folder with train/ and val/, a timm scheme (wds/…, hfds/…, torch/…), or nothing: digits"),
        (
            "data_dir",
            str,
            None,
            "folder with train/ and val/, or the root of the scheme that --data or --dataset names",
        ),
        ("dataset", str, None, "timm dataset name; the same as a scheme in --data", {"short": ("-d",)}),
        ("train_split", str, "train", "name of the training split"),
        ("val_split", str, "val", "name of the evaluation split"),
        ("dataset_download", bool, False, "let torch/ and tfds/ datasets download themselves"),
        ("class_map", str, None, "file that maps class names to labels"),
        ("input_key", str, None, "key of the images in hfds/ and wds/ data"),
        ("target_key", str, None, "key of the labels in hfds/ and wds/ data"),
        ("train_num_samples", int, None, "images of a streamed training split that does not say"),
        ("val_num_samples", int, None, "images of a streamed evaluation split that does not say"),
        ("max_unreadable", int, 50, "unreadable images that are skipped before the run stops"),
        ("workers", int, 2, "loader processes of each process", {"short": ("-j",)}),
        ("pin_mem", bool, None, "page-locked batches (default: on a GPU)"),
    ],
    "model": [
        ("model", str, "nat_m", "timm model name, ours included"),
        ("model_kwargs", "dict", {}, "more arguments of the model: key=value …"),
        ("pretrained", bool, False, "start from the model's published weights"),
        ("pretrained_path", str, None, "weights file to load as if published: authors' key names, other class counts"),
        ("initial_checkpoint", str, None, "weights file with exactly this model's keys"),
        ("num_classes", int, None, "classes (default: the data's)"),
        ("in_chans", int, 3, "image channels: 1, 3 or 4"),
        ("img_size", int, None, "input side in pixels (default: the model's)"),
        ("gp", str, None, "global pooling of the head"),
        ("crop_pct", float, None, "centre crop of evaluation (default: the model's)"),
        ("crop_mode", str, None, "evaluation crop", {"choices": ("center", "squash", "border")}),
        ("mean", "floats", None, "pixel mean in 0..1 (default: the model's)"),
        ("std", "floats", None, "pixel standard deviation in 0..1 (default: the model's)"),
        ("interpolation", str, None, "resizing in evaluation (default: the model's)"),
        ("drop", float, 0.0, "dropout of the head"),
        ("drop_path", float, None, "stochastic depth"),
        ("aux_loss_weight", float, 0.4, "weight of the auxiliary head's loss, for models that have one in training"),
    ],
    "optimiser": [
        ("batch_size", int, 128, "images of one forward pass of one process", {"short": ("-b",)}),
        ("validation_batch_size", int, None, "images of one evaluation batch", {"short": ("-vb",)}),
        ("grad_accum_steps", int, 1, "forward passes of one optimiser step"),
        ("opt", str, "adamw", "optimiser of timm.optim"),
        ("opt_eps", float, None, "optimiser epsilon"),
        ("opt_betas", "floats", None, "optimiser betas"),
        ("opt_kwargs", "dict", {}, "more arguments of the optimiser"),
        ("momentum", float, 0.9, "optimiser momentum"),
        ("weight_decay", float, 0.05, "weight decay; biases and one-dimensional weights are left out"),
        ("layer_decay", float, None, "learning-rate factor from each layer to the one below"),
        ("layer_decay_min_scale", float, 0.0, "floor of the layer decay"),
        ("clip_grad", float, None, "gradient clipping"),
        ("clip_mode", str, "norm", "what --clip-grad limits", {"choices": ("norm", "value", "agc")}),
    ],
    "learning rate": [
        ("lr", float, None, "learning rate as it is; overrides --lr-base"),
        ("lr_base", float, 1e-3, "learning rate at a global batch of --lr-base-size"),
        ("lr_base_size", int, 1024, "global batch that --lr-base is meant for"),
        ("lr_base_scale", str, "linear", "scaling to the actual global batch", {"choices": ("linear", "sqrt")}),
        ("sched", str, "cosine", "schedule of timm.scheduler"),
        ("sched_on_updates", bool, False, "step the schedule every update, not every epoch"),
        ("epochs", int, 100, "epochs, without cool-down"),
        ("warmup_epochs", int, 5, "epochs of linear warm-up"),
        ("warmup_lr", float, 1e-6, "learning rate at the start"),
        ("warmup_prefix", bool, False, "add the warm-up to the epochs"),
        ("cooldown_epochs", int, 0, "epochs at the lowest rate, added at the end"),
        ("min_lr", float, 1e-5, "lowest learning rate"),
        ("decay_epochs", float, 90, "epochs between decays (step)"),
        ("decay_milestones", "ints", [90, 180, 270], "epochs of decay (multistep)"),
        ("decay_rate", float, 0.1, "factor of a decay", {"short": ("--dr",)}),
        ("patience_epochs", int, 10, "epochs of no gain before a decay (plateau)"),
        ("lr_noise", "floats", None, "range of the schedule that gets noise"),
        ("lr_noise_pct", float, 0.67, "limit of the noise"),
        ("lr_noise_std", float, 1.0, "standard deviation of the noise"),
        ("lr_cycle_mul", float, 1.0, "growth of cycles"),
        ("lr_cycle_decay", float, 0.5, "decay of cycles"),
        ("lr_cycle_limit", int, 1, "number of cycles"),
        ("lr_k_decay", float, 1.0, "k-decay (cosine, poly)"),
    ],
    "augmentation and loss": [
        ("no_aug", bool, False, "no augmentation at all"),
        ("train_crop_mode", str, None, "rrc, rkrc or rkrr"),
        ("scale", "floats", [0.08, 1.0], "random resized crop: area"),
        ("ratio", "floats", [3 / 4, 4 / 3], "random resized crop: aspect ratio"),
        ("hflip", float, 0.5, "probability of a horizontal flip"),
        ("vflip", float, 0.0, "probability of a vertical flip"),
        ("color_jitter", float, 0.4, "colour jitter; not used together with --aa"),
        ("color_jitter_prob", float, None, "probability of colour jitter"),
        ("grayscale_prob", float, 0.0, "probability of turning grey"),
        ("gaussian_blur_prob", float, 0.0, "probability of blur"),
        ("aa", str, None, "AutoAugment, RandAugment, AugMix or 3-Augment policy of timm"),
        ("aug_repeats", int, 0, "repeated augmentation: times each image comes in a row"),
        ("train_interpolation", str, "random", "resizing in training"),
        ("reprob", float, 0.0, "probability of random erasing"),
        ("remode", str, "pixel", "random erasing fill", {"choices": ("pixel", "rand", "const")}),
        ("recount", int, 1, "random erasing count"),
        ("mixup", float, 0.0, "mixup alpha"),
        ("cutmix", float, 0.0, "cutmix alpha"),
        ("cutmix_minmax", "floats", None, "cutmix size range; overrides the alpha"),
        ("mixup_prob", float, 1.0, "probability of mixing a batch"),
        ("mixup_switch_prob", float, 0.5, "probability of cutmix when both are on"),
        ("mixup_mode", str, "batch", "mix by", {"choices": ("batch", "pair", "elem")}),
        ("mixup_off_epoch", int, 0, "epoch from which mixing is off (0: never)"),
        ("smoothing", float, 0.1, "label smoothing"),
        ("bce_loss", bool, False, "binary cross-entropy"),
        ("bce_sum", bool, False, "sum the binary cross-entropy over classes"),
        ("bce_target_thresh", float, None, "threshold that binarises soft targets"),
    ],
    "averaging and distillation": [
        ("model_ema", bool, False, "keep an exponential moving average of the weights"),
        ("model_ema_decay", float, 0.9998, "decay of the average"),
        ("model_ema_warmup", bool, False, "let the decay grow at the start"),
        ("kd_model_name", str, None, "timm model that teaches by its logits"),
        ("kd_pretrained_path", str, None, "weights file of the teacher (default: its published weights)"),
        ("kd_model_kwargs", "dict", {}, "more arguments of the teacher"),
        ("kd_temperature", float, 1.0, "softmax temperature of distillation"),
        ("task_loss_weight", float, None, "weight of the label loss (alone: distillation gets the rest)"),
        ("distill_loss_weight", float, None, "weight of the distillation loss"),
    ],
    "machine": [
        ("device", str, None, "cuda, cpu or mps (default: the best there is)"),
        ("amp", bool, False, "mixed precision"),
        ("amp_dtype", str, "bfloat16", "its type", {"choices": ("bfloat16", "float16")}),
        ("channels_last", bool, False, "channels_last memory format"),
        ("torchcompile", "str?", None, "torch.compile with this backend", {"const": "inductor"}),
        ("torchcompile_mode", str, None, "torch.compile mode"),
        ("grad_checkpointing", bool, False, "recompute activations in the backward pass"),
        ("fsdp", bool, False, "shard weights, gradients and optimiser over the processes (FSDP2) instead of DDP"),
        ("sync_bn", bool, False, "BatchNorm over all processes"),
        (
            "dist_bn",
            str,
            "reduce",
            "BatchNorm statistics before evaluation",
            {"choices": ("reduce", "broadcast", "none")},
        ),
        ("no_ddp_bb", bool, False, "do not broadcast buffers in DDP"),
        ("auto_batch_halving", bool, False, "out of memory: halve the batch and double the accumulation"),
        ("seed", int, 42, "seed of everything random"),
    ],
    "run": [
        ("output", str, "output", "folder of all runs"),
        ("experiment", str, None, "name of the run's folder (default: <model>-<data>-<size>)"),
        ("resume", "str?", None, "continue a run: auto, or its folder", {"const": "auto"}),
        ("overwrite", bool, False, "start anew in the folder of --experiment, deleting the run in it"),
        ("save_every_steps", int, 0, "also save every so many optimiser steps"),
        ("eval_metric", str, "top1", "what best means", {"choices": ("top1", "top5", "loss")}),
        ("early_stop", int, 0, "stop after so many epochs of no gain (0: never)"),
        ("log_interval", int, 20, "optimiser steps between log lines"),
        ("overfit", int, 0, "sanity check: train and evaluate on this many fixed images, without augmentation"),
        ("dry_run", bool, False, "two steps and one evaluation batch, nothing kept"),
        ("no_benchmark", bool, False, "leave out the benchmark row"),
    ],
}

#: name -> :class:`Option`, in the order of the help.
OPTIONS: dict[str, Option] = {
    row[0]: Option(*row[:4], group=group, **(row[4] if len(row) > 4 else {}))
    for group, rows in _TABLE.items()
    for row in rows
}


class _KeyValues(argparse.Action):
    """Collects ``key=value`` words into a dict, with YAML values."""

    def __call__(self, parser, namespace, values, option_string=None):
        result = dict(getattr(namespace, self.dest, None) or {})
        for word in values:
            key, sign, value = word.partition("=")
            if not sign:
                parser.error(f"{option_string}: expected key=value, got {word!r}")
            result[key] = yaml.safe_load(value)
        setattr(namespace, self.dest, result)


def build_parser(prog: str = "backbones-train") -> argparse.ArgumentParser:
    """The command line: all options without defaults, so that what the user gave can be told from what he did not."""
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train an image classifier. With no arguments: a small model on scikit-learn's handwritten digits.",
        epilog="Order of precedence: built-in defaults < recipe < flags and key=value (keys as in the recipes).",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="any option, or e.g. model_kwargs.kernel_size=5"
    )
    parser.add_argument(
        "--recipe", "-c", "--config", dest="recipe", metavar="NAME", help="recipe file or name, e.g. nat"
    )
    groups: dict[str, Any] = {}
    for option in OPTIONS.values():
        group = groups.setdefault(option.group, None) or parser.add_argument_group(option.group)
        groups[option.group] = group
        flags = [*option.short, "--" + option.name.replace("_", "-")]
        text = option.help.replace("%", "%%")
        if option.default not in (None, "", [], {}, False):
            text += f" (default: {option.default})"
        kwargs: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS, "help": text}
        if option.kind is bool:
            plain = option.name.startswith("no_")
            kwargs["action"] = "store_true" if plain else argparse.BooleanOptionalAction
        elif option.kind == "dict":
            kwargs.update(nargs="+", action=_KeyValues, metavar="key=value")
        elif option.kind in ("floats", "ints"):
            kwargs.update(nargs="+", type=float if option.kind == "floats" else int, metavar="N")
        else:
            kwargs.update(type=option.kind if isinstance(option.kind, type) else str, choices=option.choices)
            if option.choices is None:
                kwargs["metavar"] = option.name.upper()
            if option.kind == "str?":
                kwargs.update(nargs="?", const=option.const)
        group.add_argument(*flags, **kwargs)
    return parser
