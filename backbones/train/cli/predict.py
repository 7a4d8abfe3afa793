"""Command line that says what is on images: top-k classes as text, csv or json, and a contact sheet."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from backbones.train.cli.common import exif_transpose, load, main_of, make_forward, pick_device, title_of
from backbones.train.data.loader import EvalLoader
from backbones.train.data.transforms import evaluation_transform
from backbones.train.evaluation.evaluate import not_finite_sentence
from backbones.train.evaluation.models import describe_classes
from backbones.train.evaluation.predict import (
    HeldOutDigits,
    ImageFiles,
    predict,
    read_class_map,
    true_class,
    write_predictions,
    write_sheet,
)
from backbones.train.options import flags
from backbones.train.options.evaluation import PredictOptions
from backbones.train.options.flags import Parser, read_options
from backbones.utils.files import WriteError, check_writable, find_images, write_text
from backbones.utils.terminal import counting_bar, fail, say, warn


def build_parser() -> Parser:
    """The command line of predict."""
    return flags.build_parser(
        PredictOptions.table(),
        prog="backbones-predict",
        description="Say what is on images. Folders named for classes tell right from wrong.",
        epilog="Example: predict --model runs/nat_m photos/ 'more/**/*.jpg' --topk 3 --sheet sheet.png",
    )


def _output_type(args: PredictOptions) -> str:
    if args.output_type:
        return args.output_type
    suffix = (args.output or "").rpartition(".")[2].lower()
    return suffix if suffix in ("csv", "json") else "text"


def run(argv: Sequence[str] | None) -> int:
    """Predicts all images; exit code 1 when none could be read, or the model's outputs are not numbers."""
    args = read_options(PredictOptions, build_parser(), argv)
    files = find_images(args.inputs) if args.inputs else []
    for path in filter(None, (args.output, args.sheet)):
        check_writable(path)
    device = pick_device(args.device)
    loaded = load(args, args.model, args.checkpoint)
    config = loaded.data_config
    outputs = loaded.model.num_classes
    names = describe_classes(loaded.class_names, outputs)
    if args.class_map:
        names = read_class_map(args.class_map, outputs)
    source: HeldOutDigits | ImageFiles
    if args.digits is not None:
        source = HeldOutDigits(args.digits, config["input_size"][0])
        truths: list[str | None] = list(source.truths) if set(source.truths) <= set(names) else [None] * len(source)
    else:
        source = ImageFiles(files, config["input_size"][0], exif_transpose(args, args.model))
        truths = [true_class(file, loaded.class_names, names) for file in files]
    workers = args.workers if len(source) > 200 else 0  # starting processes costs more than reading a few images
    transform = evaluation_transform(config, args.crops)
    loader = EvalLoader(source, transform, min(args.batch_size, len(source)), workers=workers)
    forward = make_forward(args, loaded, device)
    with counting_bar() as bar:
        task = bar.add_task("predicting", total=len(source))
        predictions, unreadable = predict(
            forward, loader, source, names, args.topk, truths, lambda count: bar.advance(task, count)
        )
    if unreadable:
        warn(f"{len(unreadable)} of {len(source)} images could not be read:")
        for name in unreadable:
            warn(f"  {name}")
    if not predictions:
        fail("None of the images could be read.")
        return 1
    out = io.StringIO()
    write_predictions(predictions, _output_type(args), out)
    try:
        if args.output:
            say(f"wrote {write_text(args.output, out.getvalue())}")
    except WriteError:
        print(out.getvalue(), end="", flush=True)
        raise
    if not args.output:
        print(out.getvalue(), end="", flush=True)
    known = [p for p in predictions if p.truth is not None]
    if known:
        right = sum(p.truth == p.names[0] for p in known)
        say(f"{right} of {len(known)} right ({100 * right / len(known):.2f} %)")
    if args.sheet:
        title = f"{title_of(args.model)} on {'held-out digits' if args.digits is not None else 'your images'}"
        columns = 10 if args.digits is not None and len(predictions) >= 10 else None  # every digit a column of its own
        path, shown = write_sheet(predictions, source, args.sheet, title, args.sheet_limit, columns)
        say(f"wrote {path}" + (f" (the first {shown} of {len(predictions)})" if shown < len(predictions) else ""))
    wrong = sum(math.isnan(prediction.probabilities[0]) for prediction in predictions)
    if wrong:
        fail(not_finite_sentence(wrong, len(predictions)))
    return 1 if wrong else 0


main = main_of(run)

if __name__ == "__main__":
    raise SystemExit(main())
