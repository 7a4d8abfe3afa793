"""Train a detector or segmentor."""

from __future__ import annotations

from collections.abc import Sequence

from backbones.dense import runner
from backbones.dense.cli_common import add_data_check, check_data, guarded, parser_of, read_config, say
from backbones.dense.config import DenseError
from backbones.dense.data_check import check


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
    splits = ["train", "val"] if cfg.get("val_cfg") else ["train"]
    if args.check_data:
        return check_data(cfg, splits)
    for remark in check(cfg, splits):
        say(remark)
    job = runner.build(
        cfg, amp=args.amp, auto_scale_lr=args.auto_scale_lr, resume=args.resume, save_every_steps=args.save_every_steps
    )
    with runner.translated():
        job.train()
    say(f"checkpoints and logs: {cfg.work_dir}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return guarded(run, argv)
