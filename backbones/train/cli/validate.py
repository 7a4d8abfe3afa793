"""Command line that measures one or several models on labelled images and prints one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from backbones.train.cli.common import exif_transpose, load, main_of, make_forward, pick_device, title_of
from backbones.train.data.datasets import (
    DataError,
    StreamSource,
    build_dataset,
    data_name,
    name_and_root,
    split_folder,
)
from backbones.train.data.loader import EvalLoader
from backbones.train.data.transforms import evaluation_transform
from backbones.train.evaluation.evaluate import Evaluation, evaluate, not_finite_sentence
from backbones.train.evaluation.labels import match_classes, open_real_labels, read_valid_labels
from backbones.train.evaluation.models import LoadedModel, ModelError, describe_classes, recipe_of
from backbones.train.options import flags
from backbones.train.options.evaluation import ValidateOptions
from backbones.train.options.flags import Parser, read_options
from backbones.utils.files import WriteError, check_writable, write_csv, write_json
from backbones.utils.profiling import count_parameters
from backbones.utils.terminal import console, counting_bar, fail, say, warn

_SHOWN_CLASSES = 20


def build_parser() -> Parser:
    """The command line of validate."""
    return flags.build_parser(
        ValidateOptions.table(),
        prog="backbones-validate",
        description="Measure models on labelled images: top-1, top-5, loss, per class, confusion and speed.",
        epilog="Example: validate runs/nat_m maxvit_t --data imagenet --results-file results",
    )


def _is_data(spec: str) -> bool:
    """Whether a folder holds no model: neither a run nor what timm exports."""
    return Path(spec).is_dir() and not any((Path(spec) / name).is_file() for name in ("recipe.yaml", "config.json"))


def located(data: str | None, split: str) -> tuple[str | None, str]:
    """`data` and `split` for :func:`build_dataset`; a folder of class folders only is its own split."""
    if data is None or not Path(data).is_dir():
        return data, split
    try:
        split_folder(data, split)
    except DataError:
        folder = Path(data).resolve()
        if any((folder / name).exists() for name in ("train", "training")):
            raise
        return str(folder.parent), folder.name
    return data, split


def open_data(args: ValidateOptions, spec: str, in_chans: int):
    """The labelled images: what the flags say, else what the run validated on, else the digits.

    Returns:
        The dataset and its short name.
    """
    recipe = recipe_of(spec)
    given = any((args.data, args.data_dir, args.dataset))
    source = vars(args) if given else recipe
    data, root = name_and_root(*(source.get(key) for key in ("data", "data_dir", "dataset")))
    folder, split = located(data, args.split or recipe.get("val_split") or "val")
    dataset = build_dataset(
        folder,
        split,
        in_chans=in_chans,
        data_dir=root,
        num_samples=args.num_samples or recipe.get("val_num_samples"),
        download=args.dataset_download or None,
        exif_transpose=exif_transpose(args, spec),
        **{key: getattr(args, key) or recipe.get(key) for key in ("class_map", "input_key", "target_key")},
    )
    dataset.unreadable.limit = args.max_unreadable
    dataset.unreadable.log = Path(args.unreadable_log) if args.unreadable_log else None
    return dataset, data_name(data)


def measure(args: ValidateOptions, spec: str, checkpoint: str | None) -> tuple[dict[str, Any], Evaluation, list[str]]:
    """Loads one model and measures it.

    Returns:
        Its row of the table, the evaluation, and the names of the classes in the data's order.
    """
    device = pick_device(args.device)
    loaded = load(args, spec, checkpoint)
    config = loaded.data_config
    dataset, data = open_data(args, spec, config["input_size"][0])
    if args.valid_labels:
        outputs, note = read_valid_labels(args.valid_labels, loaded.model.num_classes, len(dataset.class_names)), ""
    else:
        outputs, note = match_classes(dataset.class_names, loaded.class_names, loaded.model.num_classes, data)
    if note:
        warn(f"{spec}: {note}")
    real = None
    if args.real_labels:
        if isinstance(dataset, StreamSource) or outputs is not None:
            raise DataError("ReaL labels need the ImageNet validation set as a folder, with all its classes in order.")
        real = open_real_labels(args.real_labels, [dataset.filename(i) for i in range(len(dataset))])
    workers = args.workers if len(dataset) > 2000 else 0  # starting processes costs more than reading a few images
    loader = EvalLoader(
        dataset,
        evaluation_transform(config, args.crops),
        args.batch_size,
        workers=workers,
        pin_memory=device.type == "cuda",
    )
    forward = make_forward(args, loaded, device)
    with counting_bar() as bar:
        task = bar.add_task(spec, total=len(dataset))
        result = evaluate(forward, loader, outputs=outputs, real=real, progress=lambda n: bar.advance(task, n))
    if result.unreadable:
        warn(f"{result.unreadable} of {len(dataset)} images could not be read and were left out.")
    names = dataset.class_names or loaded.class_names
    names = describe_classes(names, result.num_classes)
    return make_row(args, spec, loaded, data, result, device.type), result, names


def make_row(
    args: ValidateOptions, spec: str, loaded: LoadedModel, data: str, result: Evaluation, device: str
) -> dict[str, Any]:
    """A row of the results files."""
    config, report = loaded.data_config, loaded.report
    row: dict[str, Any] = {
        "model": spec,
        "data": data,
        "img_size": config["input_size"][-1],
        "crop_pct": config["crop_pct"],
        "params_m": round(count_parameters(loaded.model) / 1e6, 3),
        "classes": result.num_classes,
        "images": result.images,
        "unreadable": result.unreadable,
        "top1": round(result.top1, 4),
        "top5": None if result.top5 is None else round(result.top5, 4),
        "loss": round(result.loss, 6),
    }
    if result.real_top1 is not None:
        row.update(real_top1=round(result.real_top1, 4), real_top5=round(result.real_top5, 4))
    row.update(
        img_per_s=round(result.images_per_second, 2),
        seconds=round(result.seconds, 3),
        batch_size=result.piece or args.batch_size,
        device=device,
        amp_dtype=args.amp_dtype if args.amp else None,
        tta=args.tta,
        crops=args.crops,
        reparam=args.reparam,
        checkpoint=report.source if report is not None else None,
        sha256=report.sha256 if report is not None else None,
    )
    return row


_COLUMNS = (
    ("model", "model", "{}"),
    ("data", "data", "{}"),
    ("img_size", "size", "{}"),
    ("params_m", "params (M)", "{:.2f}"),
    ("images", "images", "{:,}"),
    ("top1", "top-1 (%)", "{:.2f}"),
    ("top5", "top-5 (%)", "{:.2f}"),
    ("real_top1", "ReaL top-1 (%)", "{:.2f}"),
    ("real_top5", "ReaL top-5 (%)", "{:.2f}"),
    ("loss", "loss", "{:.4f}"),
    ("img_per_s", "img/s", "{:,.1f}"),
)


def result_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The table for the terminal; columns that no row fills are left out."""
    table = Table(header_style="bold")
    columns = [column for column in _COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    for key, title, _ in columns:
        table.add_column(title, justify="left" if key in ("model", "data") else "right", overflow="fold")
    for row in rows:
        table.add_row(*("-" if row.get(key) is None else form.format(row[key]) for key, _, form in columns))
    return table


def class_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Per-class figures for the terminal: all of a few classes, the worst of many."""
    shown = list(rows)
    if len(rows) > _SHOWN_CLASSES:
        shown = sorted((row for row in rows if row["support"]), key=lambda row: row["f1"])[:_SHOWN_CLASSES]
        title += f": the {len(shown)} of {len(rows)} classes with the lowest F1"
    table = Table(title=title, header_style="bold", title_justify="left")
    table.add_column("class", overflow="fold")
    for name in ("precision (%)", "recall (%)", "F1 (%)", "support"):
        table.add_column(name, justify="right")
    for row in shown:
        figures = (f"{row[key]:.2f}" for key in ("precision", "recall", "f1"))
        table.add_row(row["class"], *figures, f"{row['support']:,}")
    return table


def write_results(path: str, rows: Sequence[dict[str, Any]]) -> list[Path]:
    """The table as csv, json or, without a suffix, both; each file appears whole."""
    target = Path(path)
    known = target.suffix.lower() in (".csv", ".json")
    files = [target] if known else [Path(f"{path}.csv"), Path(f"{path}.json")]
    for file in files:
        if file.suffix.lower() == ".json":  # which knows no NaN
            write_json(file, [row | ({} if math.isfinite(row["loss"]) else {"loss": None}) for row in rows])
        else:
            write_csv(file, rows)
    return files


def _write(
    args: ValidateOptions, rows: Sequence[dict[str, Any]], result: Evaluation, names: Sequence[str], label: str | None
) -> Iterator[Path]:
    """Writes the files that are asked for, with a model's label in their names where there are several."""
    if args.results_file:
        yield from write_results(args.results_file, rows)
    if args.per_class:
        yield write_csv(numbered(args.per_class, label), result.per_class(names))
    if args.confusion:
        from backbones.train.evaluation.plots import plot_confusion

        title = f"{title_of(rows[-1]['model'])} on {rows[-1]['data']}"
        yield plot_confusion(result.confusion(), names, numbered(args.confusion, label), title=title)


def numbered(path: str, label: str | None) -> Path:
    """`path`, with a model's label before the suffix."""
    file = Path(path)
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in label or "").strip("._")
    return file if label is None else file.with_name(f"{file.stem}-{safe}{file.suffix}")


def run(argv: Sequence[str] | None) -> int:
    """Measures every model; one that fails, or whose outputs are not numbers, is named, and the others go on."""
    args = read_options(ValidateOptions, build_parser(), argv)
    if args.model and len(args.models) == 1 and _is_data(args.models[0]) and not args.data:
        args = args.replace(models=(), data=args.models[0])  # timm's positional DIR
    specs = [*args.models, *args.model]
    checkpoints: list[str | None] = list(args.checkpoint) or [None] * len(specs)
    several, failed, wrong, unwritten = len(specs) > 1, 0, False, False
    for path in (args.results_file, args.per_class, args.confusion):
        if path:
            check_writable(path if Path(path).suffix else f"{path}.csv")
    rows: list[dict[str, Any]] = []
    for number, (spec, checkpoint) in enumerate(zip(specs, checkpoints)):
        try:
            row, result, names = measure(args, spec, checkpoint)
        except (ModelError, DataError) as error:
            if not several:
                raise
            failed += 1
            fail(error)
            continue
        rows.append(row)
        if result.not_finite:
            wrong = True
            fail(f"{spec}: {not_finite_sentence(result.not_finite, result.images)}")
        label = spec if specs.count(spec) == 1 else f"{spec}-{number + 1}"
        if args.per_class:
            console.print(class_table(result.per_class(names), title_of(spec)))
        try:
            for path in _write(args, rows, result, names, label if several else None):
                say(f"wrote {path}")
        except WriteError as error:  # what was measured is shown whatever becomes of the files
            unwritten = True
            fail(error)
    if rows:
        console.print(result_table(rows))
    if failed:
        warn(f"{failed} of {len(specs)} models could not be measured.")
    return 2 if unwritten else 1 if failed or wrong else 0


main = main_of(run)

if __name__ == "__main__":
    raise SystemExit(main())
