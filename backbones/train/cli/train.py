"""Command line of training: ``backbones-train``, ``tools/classification/train.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from backbones.train.data.datasets import DataError
from backbones.train.evaluation.models import ModelError
from backbones.train.loop.checkpoint import CheckpointError
from backbones.train.loop.distributed import DeviceError
from backbones.train.loop.run import train
from backbones.train.loop.trainer import TrainError
from backbones.train.options import OptionError
from backbones.train.options.recipe import parse_command_line
from backbones.utils.failures import PeerError
from backbones.utils.files import WriteError
from backbones.utils.terminal import fail, guarded


def run(argv: Sequence[str] | None) -> int:
    """Trains; returns 0 when done, 3 when training failed, 130 when it was interrupted and saved."""
    argv = list(sys.argv[1:] if argv is None else argv)
    recipe, given = parse_command_line(argv)
    try:
        return train(recipe, given, [sys.argv[0], *argv])
    except PeerError:  # the other process has said why
        return 3
    except (TrainError, WriteError, BrokenPipeError) as error:
        fail(error)
        return 3


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``backbones-train``; returns the exit code."""
    mistakes = (OptionError, DataError, ModelError, DeviceError, CheckpointError)
    return guarded(run, argv, mistakes, "Interrupted before anything was saved since the last checkpoint.")


if __name__ == "__main__":
    raise SystemExit(main())
