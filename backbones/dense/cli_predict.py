"""Draw what a trained detector or segmentor finds on images, and tell it as json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backbones.dense.cli_common import check_output, guarded, parser_of, read_config, say
from backbones.dense.errors import DenseError
from backbones.dense.predict import Predictor, predict
from backbones.dense.runner import build_model, check_device, without_starting_weights
from backbones.utils.files import find_images
from backbones.utils.terminal import counting_bar


def run(argv: Sequence[str] | None) -> int:
    """Predicts all images; exit code 1 when some of them could not be, which is told at the end."""
    parser = parser_of("predict", __doc__, work_dir=False)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file or address: ours or the authors'")
    parser.add_argument("inputs", nargs="+", metavar="IMAGE", help="image files, folders (searched through), or globs")
    parser.add_argument("-o", "--out-dir", default="predictions", metavar="DIR", help="default: predictions")
    parser.add_argument("--score-thr", type=float, default=0.3, metavar="X", help="least score shown (default: 0.3)")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images, spread over those found")
    parser.add_argument("--device", help="cuda, cpu (default: the best there is)")
    args = parser.parse_args(argv)
    if not 0 <= args.score_thr <= 1:
        raise DenseError(f"--score-thr is a score from 0 to 1, not {args.score_thr}.")
    if args.limit is not None and args.limit < 1:
        raise DenseError(f"--limit must be at least 1, not {args.limit}.")
    check_device(args.device)
    check_output(args.out_dir, "--out-dir")
    cfg = without_starting_weights(read_config(args))
    images = find_images(args.inputs)
    if args.limit and len(images) > args.limit:
        images = [images[i * len(images) // args.limit] for i in range(args.limit)]
    predictor = Predictor(build_model(cfg, args.checkpoint, args.device), cfg, args.score_thr)
    folder = Path(args.out_dir)
    with counting_bar() as bar:
        task = bar.add_task("predicting", total=len(images))
        told, failed = predict(predictor, images, folder, lambda: bar.advance(task))
    for sentence in failed:
        say(sentence)
    count = sum(len(entry.get("instances", ())) for entry in told)
    found = f", {count} instances of score {args.score_thr} or more" if any("instances" in e for e in told) else ""
    missed = f"; {len(failed)} of {len(images)} images could not be predicted" if failed else ""
    say(f"wrote {len(told)} pictures and predictions.json to {folder}{found}{missed}")
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return guarded(run, argv)
