"""What the validate and predict command lines share: options of the model and machine, loading, and errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from timm.utils import ParseKwargs

from backbones.processes import keep_freed_memory
from backbones.terminal import messages
from backbones.train.data import DataError
from backbones.train.distributed import default_device
from backbones.train.evaluate import Forward
from backbones.train.modelio import LoadedModel, ModelError, load_model, recipe_of

#: Messages go to stderr, results to stdout, so that a result can be piped. Off a terminal, lines are not folded at 80.
_WIDTH = None if sys.stdout.isatty() else 160
console = Console(width=_WIDTH)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say which weights, how images are prepared and where the model runs; timm's names."""
    group = parser.add_argument_group("model")
    group.add_argument("--use-ema", action="store_true", help="load the averaged weights")
    group.add_argument(
        "--pretrained",
        action=argparse.BooleanOptionalAction,
        help="fetch the published weights (default: when no file gives weights); --no-pretrained: random ones",
    )
    group.add_argument("--num-classes", type=int, metavar="N", help="outputs (default: the model's or the run's)")
    group.add_argument("--in-chans", type=int, metavar="N", help="image channels: 1, 3 or 4")
    group.add_argument("--model-kwargs", nargs="*", default={}, action=ParseKwargs, metavar="key=value")
    group.add_argument("--reparam", action="store_true", help="merge re-parameterisable blocks after loading")

    group = parser.add_argument_group("images")
    group.add_argument("--img-size", type=int, metavar="N", help="input side in pixels (default: the model's)")
    group.add_argument("--use-train-size", action="store_true", help="ignore a larger published test size")
    group.add_argument("--crop-pct", type=float, metavar="X", help="centre crop, as a share of the side")
    group.add_argument("--crop-mode", choices=("center", "squash", "border"), help="how images become square")
    group.add_argument("--mean", type=float, nargs="+", metavar="X", help="pixel mean in 0..1")
    group.add_argument("--std", type=float, nargs="+", metavar="X", help="pixel standard deviation in 0..1")
    group.add_argument("--interpolation", metavar="NAME", help="bilinear, bicubic, ...")

    group = parser.add_argument_group("machine")
    group.add_argument("--device", help="cuda, cpu, mps (default: the best there is)")
    group.add_argument("-b", "--batch-size", type=int, default=128, metavar="N", help="images at once (default: 128)")
    group.add_argument("-j", "--workers", type=int, default=2, metavar="N", help="loader processes (default: 2)")
    group.add_argument("--amp", action="store_true", help="mixed precision")
    group.add_argument("--amp-dtype", choices=("bfloat16", "float16"), default="bfloat16", help="its type")
    group.add_argument("--channels-last", action="store_true", help="channels_last memory format")
    group.add_argument("--torchcompile", nargs="?", const="inductor", metavar="BACKEND", help="torch.compile the model")
    group.add_argument("--torchcompile-mode", metavar="MODE", help="its mode")
    group.add_argument("--tta", action="store_true", help="average over the image and its mirror image")


def pick_device(name: str | None) -> torch.device:
    """The named device, or the best there is.

    Raises:
        ModelError: When the device is unknown or absent.
    """
    if name is None:
        return torch.device(default_device())
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise ModelError(f"Device {name!r} cannot be used ({reason}): try --device cpu.") from error
    return device


def check_arguments(args: argparse.Namespace) -> None:
    """Rejects numbers that make no sense, in one sentence.

    Raises:
        ModelError: Naming the flag.
    """
    for flag, least in (("batch_size", 1), ("workers", 0), ("img_size", 1), ("num_classes", 1), ("topk", 1)):
        value = getattr(args, flag, None)
        if value is not None and value < least:
            raise ModelError(f"--{flag.replace('_', '-')} must be at least {least}, not {value}.")
    if args.crop_pct is not None and not 0 < args.crop_pct <= 1:
        raise ModelError(f"--crop-pct is a share of the side in (0, 1], not {args.crop_pct}.")


def load(args: argparse.Namespace, spec: str, checkpoint: str | None, say: Callable[[str], None]) -> LoadedModel:
    """Loads a model as the options say and reports how its weights fitted."""
    torch.manual_seed(42)  # random weights, where they are asked for, are the same every time
    loaded = load_model(
        spec,
        checkpoint,
        pretrained=args.pretrained,
        num_classes=args.num_classes,
        in_chans=args.in_chans,
        img_size=args.img_size,
        data_args={key: getattr(args, key) for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")},
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


def make_forward(args: argparse.Namespace, loaded: LoadedModel, device: torch.device) -> Forward:
    """The loaded model on its device, compiled and in the memory format that the options ask for."""
    model = loaded.model.to(device)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if args.torchcompile:
        model = torch.compile(model, backend=args.torchcompile, mode=args.torchcompile_mode)
    dtype = getattr(torch, args.amp_dtype) if args.amp else None
    return Forward(model, device, dtype, args.channels_last, args.tta, say=warn)


def say(text: str) -> None:
    """A message for the user, on stderr."""
    messages.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """A warning for the user, on stderr."""
    messages.print(text, style="yellow", markup=False, soft_wrap=True)


def guarded(run: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """Runs a command line; what the user can mend ends it with one sentence and exit code 2."""
    if argv is None:  # the process is this program's own
        keep_freed_memory()
    try:
        return run(argv)
    except (ModelError, DataError) as error:
        messages.print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        messages.print("Interrupted.", style="yellow")
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def title_of(spec: str) -> str:
    """How pictures call a model: a name as it is, a run by its model and folder rather than its path."""
    model = recipe_of(spec).get("model")
    return f"{model} ({Path(spec).resolve().name})" if model else spec


def numbered(path: str | Path, name: str, several: bool) -> Path:
    """`path` for one model; with several, the model's name goes before the suffix."""
    path = Path(path)
    if not several:
        return path
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).strip("._")
    return path.with_name(f"{path.stem}-{safe}{path.suffix}")
