"""Measure a trained detector or segmentor on the test data of its config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process

from backbones.dense import runner
from backbones.dense.checkpoint import load_weights
from backbones.dense.cli_common import (
    add_data_check,
    check_data,
    check_output,
    guarded,
    parser_of,
    read_config,
    say,
    show_rows,
)
from backbones.dense.config import datasets
from backbones.dense.data_check import check
from backbones.dense.errors import DenseError
from backbones.utils.files import write_json


def run(argv: Sequence[str] | None) -> int:
    """Tests as the command line says; the metrics go to stdout and to `metrics.json` in the work folder."""
    parser = parser_of("test", __doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file or address: ours or the authors'")
    parser.add_argument("--tta", action="store_true", help="multi-scale test with flips, where the config has one")
    parser.add_argument("--out", metavar="FILE", help="json of the metrics (default: metrics.json in the work folder)")
    add_data_check(parser)
    args = parser.parse_args(argv)
    cfg = runner.without_starting_weights(read_config(args))
    check_output(cfg.work_dir, "--work-dir")
    if args.out:
        check_output(args.out, "--out", folder=False)
    if args.check_data:
        return check_data(cfg, ["test"])
    for remark in check(cfg, ["test"]):
        say(remark)
    if args.tta:
        _test_time_augmentation(cfg)
    for key in ("dataloader", "cfg"):
        cfg.pop(f"train_{key}", None)
        cfg.pop(f"val_{key}", None)
    for key in ("val_evaluator", "optim_wrapper", "param_scheduler"):
        cfg.pop(key, None)
    cfg.load_from = None
    job = runner.build(cfg)
    model = getattr(job.model, "module", job.model)
    load_weights(getattr(model, "module", model) if args.tta else model, args.checkpoint)
    with runner.translated(job):
        metrics = job.test()
    if not is_main_process():
        return 0
    show_rows(f"{args.checkpoint}", list(metrics.items()))
    say(f"wrote {write_json(args.out or Path(cfg.work_dir) / 'metrics.json', metrics, default=float)}")
    return 0


def _test_time_augmentation(cfg: Config) -> None:
    if "tta_model" not in cfg or "tta_pipeline" not in cfg:
        raise DenseError("The config has no tta_model and tta_pipeline: test without --tta.")
    for _, dataset in datasets(cfg, ["test"]):
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return guarded(run, argv)
