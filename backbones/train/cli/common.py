"""What the validate and predict command lines share: loading, devices, messages and errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console

from backbones.train.data.datasets import DataError
from backbones.train.evaluation.evaluate import Forward
from backbones.train.evaluation.models import LoadedModel, ModelError, load_model, recipe_of
from backbones.train.loop.distributed import default_device
from backbones.train.options import OptionError
from backbones.train.options.evaluation import EvaluationOptions
from backbones.utils.failures import explain_failure
from backbones.utils.files import WriteError
from backbones.utils.processes import keep_freed_memory
from backbones.utils.terminal import messages

#: Messages go to stderr, results to stdout, so that a result can be piped. Off a terminal, lines are not folded at 80.
_WIDTH = None if sys.stdout.isatty() else 160
console = Console(width=_WIDTH)


def pick_device(name: str | None) -> torch.device:
    """The named device, or the best there is.

    Raises:
        ModelError: When the device refuses a tensor, e.g. because another process has all its memory.
    """
    device = torch.device(name or default_device())
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise ModelError(f"Device {name!r} cannot be used ({reason}): try --device cpu.") from error
    return device


def load(args: EvaluationOptions, spec: str, checkpoint: str | None, say: Callable[[str], None]) -> LoadedModel:
    """Loads a model as the options say and reports how its weights fitted."""
    torch.manual_seed(42)  # random weights, where they are asked for, are the same every time
    loaded = load_model(
        spec,
        checkpoint,
        pretrained=args.pretrained,
        num_classes=args.num_classes,
        in_chans=args.input_size[0] if args.input_size else args.in_chans,
        img_size=args.size,
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


def say(text: str) -> None:
    """A message for the user, on stderr."""
    messages.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """A warning for the user, on stderr."""
    messages.print(text, style="yellow", markup=False, soft_wrap=True)


def guarded(run: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """Runs a command line; what the user can mend ends it with one sentence and exit code 2, the machine's with 3."""
    if argv is None:  # the process is this program's own
        keep_freed_memory()
    try:
        return run(argv)
    except (OptionError, ModelError, DataError, WriteError) as error:
        messages.print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        messages.print("Interrupted.", style="yellow")
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        sentence = explain_failure(error)
        if sentence is None:
            raise
        messages.print(f"error: {sentence}", style="bold red", markup=False, soft_wrap=True)
        return 3


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
