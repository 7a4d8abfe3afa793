"""What the validate and predict command lines share: loading a model, its device and form, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from backbones.train.data.datasets import DataError
from backbones.train.evaluation.evaluate import Forward
from backbones.train.evaluation.models import LoadedModel, ModelError, load_model, recipe_of
from backbones.train.loop.distributed import default_device
from backbones.train.options import OptionError
from backbones.train.options.evaluation import EvaluationOptions
from backbones.utils.files import InputError, WriteError
from backbones.utils.terminal import guarded, say, warn
from backbones.utils.text import first_line


def main_of(run: Callable[[Sequence[str] | None], int]) -> Callable[[Sequence[str] | None], int]:
    """The entry point of a command line: takes arguments or those of the process, and returns the exit code."""
    return lambda argv=None: guarded(run, argv, (OptionError, ModelError, DataError, InputError, WriteError))


def pick_device(name: str | None) -> torch.device:
    """The named device, or the best there is.

    Raises:
        ModelError: When the device refuses a tensor, e.g. because another process has all its memory.
    """
    device = torch.device(name or default_device())
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).partition(". ")[0]
        raise ModelError(f"Device {name!r} cannot be used ({reason}): try --device cpu.") from error
    return device


def load(args: EvaluationOptions, spec: str, checkpoint: str | None) -> LoadedModel:
    """Loads a model as the options say and reports how its weights fitted."""
    torch.manual_seed(42)  # random weights, where they are asked for, are the same every time
    loaded = load_model(
        spec,
        checkpoint,
        pretrained=args.pretrained,
        num_classes=args.num_classes,
        in_chans=args.input_size[0] if args.input_size else args.in_chans,
        img_size=args.size,
        data_args=vars(args),
        use_ema=args.use_ema,
        use_test_size=not args.use_train_size,
        reparam=args.reparam,
        model_kwargs=args.model_kwargs,
    )
    if loaded.report is not None:
        say(loaded.report.render())
    elif args.pretrained is False:
        say(f"{spec}: random weights, as --no-pretrained asks for")
    return loaded


def exif_transpose(args: EvaluationOptions, spec: str) -> bool:
    """Whether photographs are turned upright: as the flag says, else as the run was trained."""
    if args.exif_transpose is not None:
        return args.exif_transpose
    return bool(recipe_of(spec).get("exif_transpose"))


def make_forward(args: EvaluationOptions, loaded: LoadedModel, device: torch.device) -> Forward:
    """The loaded model on its device, compiled and in the memory format that the options ask for."""
    model = loaded.model.to(device, getattr(torch, args.model_dtype) if args.model_dtype else None)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if args.torchcompile:
        model = torch.compile(model, backend=args.torchcompile, mode=args.torchcompile_mode)
    dtype = getattr(torch, args.amp_dtype) if args.amp else None
    return Forward(model, device, dtype, args.channels_last, args.tta, say=warn)


def title_of(spec: str) -> str:
    """How pictures call a model: a name as it is, a run by its model and folder rather than its path."""
    model = recipe_of(spec).get("model")
    return f"{model} ({Path(spec).resolve().name})" if model else spec
