"""Command line of training: ``backbones-train``, ``tools/classification/train.py``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from backbones.train.options import OptionError
from backbones.train.options.recipe import parse_command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Trains; returns 0 when done, 2 for a mistake of the user, 3 when training failed, 130 when interrupted."""
    own_process = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        recipe, given = parse_command_line(argv)
    except OptionError as error:
        return _fail(error, 2)

    from backbones.train.data.datasets import DataError
    from backbones.train.evaluation.models import ModelError
    from backbones.train.loop.checkpoint import CheckpointError
    from backbones.train.loop.distributed import DeviceError
    from backbones.train.loop.run import train
    from backbones.train.loop.trainer import TrainError
    from backbones.utils.failures import PeerError, explain_failure
    from backbones.utils.processes import keep_freed_memory

    if own_process:
        keep_freed_memory()
    try:
        return train(recipe, given, [sys.argv[0], *argv])
    except (OptionError, DataError, ModelError, DeviceError, CheckpointError) as error:
        return _fail(error, 2)
    except TrainError as error:
        return _fail(error, 3)
    except PeerError:
        return 3
    except KeyboardInterrupt:
        return _fail("Interrupted before anything was saved since the last checkpoint.", 130)
    except Exception as error:
        sentence = explain_failure(error)
        if sentence is None:
            raise
        return _fail(sentence, 3)


def _fail(error: Exception | str, code: int) -> int:
    rank = os.environ.get("RANK")
    print(f"error{f' (process {rank})' if rank else ''}: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
