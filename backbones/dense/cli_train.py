"""Train a detector or segmentor."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.dist import is_main_process

from backbones.checkpoints import WeightsError
from backbones.dense import runner
from backbones.dense.cli_common import add_data_check, check_data, check_output, guarded, parser_of, read_config, say
from backbones.dense.data_check import check
from backbones.dense.errors import DenseError


def run(argv: Sequence[str] | None) -> int:
    """Trains as the command line says."""
    parser = parser_of("train", __doc__)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="FILE",
        help="go on from the last checkpoint of the work folder, or from FILE",
    )
    parser.add_argument(
        "--save-every-steps",
        type=int,
        default=0,
        metavar="N",
        help="also save every so many iterations, for runs that may be killed inside an epoch",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate to this run's batch")
    add_data_check(parser)
    args = parser.parse_args(argv)
    if args.save_every_steps < 0:
        raise DenseError(f"--save-every-steps must be at least 0, not {args.save_every_steps}.")
    cfg = read_config(args)
    check_output(cfg.work_dir, "--work-dir")
    splits = ["train", "val"] if cfg.get("val_cfg") else ["train"]
    if args.check_data:
        return check_data(cfg, splits)
    for remark in check(cfg, splits):
        say(remark)
    with _gone_unless_started(Path(cfg.work_dir)):
        job = runner.build(cfg, args.amp, args.auto_scale_lr, args.resume, args.save_every_steps)
        with runner.translated(job):
            job.train()
    say(f"checkpoints and logs: {cfg.work_dir}")
    return 0


@contextlib.contextmanager
def _gone_unless_started(folder: Path) -> Iterator[None]:
    """Leave no work folder behind that was made for a config which cannot be run."""
    there = folder.exists()
    try:
        yield
    except (DenseError, WeightsError):
        if not there and is_main_process() and not any(_losses(folder)):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _losses(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*/vis_data/scalars.json") if path.stat().st_size)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return guarded(run, argv)
