"""Command line that exports a model, runs what was exported, and says how far it is from the model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from rich.table import Table
from timm.models import get_model_input_config
from torch import Tensor, nn

import backbones
from backbones._version import __version__
from backbones.checkpoints import WeightsError
from backbones.export.compare import Comparison, compare
from backbones.export.graphs import Deployed, ExportError, Inputs, need, open_file, write
from backbones.export.int8 import quantize
from backbones.export.options import ExportOptions
from backbones.train.cli.common import exif_transpose
from backbones.train.cli.validate import located
from backbones.train.data.datasets import DataError, build_dataset, data_name
from backbones.train.data.loader import EvalLoader
from backbones.train.data.transforms import evaluation_transform
from backbones.train.evaluation.evaluate import Forward, evaluate
from backbones.train.evaluation.labels import match_classes
from backbones.train.evaluation.models import LoadedModel, ModelError, describe_classes, load_model
from backbones.train.evaluation.predict import ImageFiles
from backbones.train.options import OptionError, flags
from backbones.train.options.flags import Parser, read_options
from backbones.utils.files import InputError, WriteError, check_writable, find_images, write_json, write_text
from backbones.utils.terminal import console, fail, guarded, say, warn

_HALF = 0.05  # of the largest output: beyond this a float16 file is told to be of little use


def build_parser() -> Parser:
    """The command line of export."""
    return flags.build_parser(
        ExportOptions.table(),
        prog="backbones-export",
        description="Export a model as an ONNX file and a torch.export program, and compare both with it.",
        epilog="Example: export nat_m --out exported/nat_m --half --int8 photos/",
    )


class _AsClassifier(nn.Module):
    """A file that takes images as its deployed model does, as one that takes normalised ones."""

    def __init__(self, file: nn.Module, model: Deployed) -> None:
        super().__init__()
        self.file, self.model = file, model

    def forward(self, x: Tensor) -> Tensor:
        return self.file(self.model.unnormalised(x))


class _Exported:
    """One model, its deployed form, and the files written of it."""

    def __init__(self, args: ExportOptions, folder: Path, model: nn.Module, inputs: Inputs, about: dict) -> None:
        self.args, self.folder, self.inputs, self.about = args, folder, inputs, about
        mean_std = (about["mean"], about["std"]) if args.with_preprocessing else ()
        self.model = Deployed(model, *mean_std).eval().requires_grad_(False)
        self.half = Deployed(copy.deepcopy(model), *mean_std, half=True).eval() if args.half else None
        self.results: list[tuple[Comparison, nn.Module, bool]] = []
        self.taken: dict[str, Inputs] = {}  # by file: what it takes

    def write_all(self) -> None:
        """Write and compare all files that were asked for."""
        for suffix in self.args.formats:
            for stem, model in (("model", self.model), ("model_float16", self.half)):
                if model is not None:
                    self.write(model, self.folder / f"{stem}.{suffix}", self.inputs)

    def write(self, model: Deployed, path: Path, inputs: Inputs, notes: Sequence[str] = ()) -> None:
        """Write and compare a file; for one size where it does not hold for any."""
        try:
            write(model, inputs, path, self.args.opset)
            result, module = self.compared(path, inputs, notes)
        except ExportError as error:
            if not inputs.any_size:
                raise
            reason = str(error)
        else:
            reason = next(iter(result.failures.values()), "")
            if model is self.model and not reason and not result.worst <= self.args.tolerance:
                reason = f"for others its results differ by {result.worst:.2g} of the largest"
            if not reason or not inputs.any_size:
                self.results.append((result, module, model is self.model))
                self.taken[path.name] = inputs
                return
        one = dataclasses.replace(inputs, any_size=False)
        self.write(model, path, one, [*notes, f"takes {inputs.height} x {inputs.width} alone: {reason}"])

    def compared(self, path: Path, inputs: Inputs, notes: Sequence[str] = ()) -> tuple[Comparison, nn.Module]:
        """A written file as a module, and how far it is from the model."""
        files = [path, *path.parent.glob(f"{path.name}.data")]
        result = Comparison(path.name, sum(f.stat().st_size for f in files) / 1e6, notes=list(notes))
        module = open_file(path)
        compare(result, module, self.model, inputs, self.args.rounds)
        return result, module

    def write_int8(self, batches: list[Tensor]) -> None:
        """Write and compare the file in int8."""
        path = self.folder / "model_int8.onnx"
        quantize(self.folder / "model.onnx", path, [self.model.unnormalised(batch) for batch in batches])
        self.results.append((*self.compared(path, self.taken["model.onnx"]), False))

    def finish(self, name: str, table: Table) -> list[str]:
        """Write what belongs to the files, add them to the table, and return what is wrong with them."""
        wrong = []
        for result, _, exact in self.results:
            table.add_row(name, *_cells(result))
            for note in result.notes:
                warn(f"{name}, {result.file}: {note}")
            wrong += [f"{result.file} does not take {size}: {why}" for size, why in result.failures.items()]
            if exact and not result.worst <= self.args.tolerance:
                wrong.append(
                    f"{result.file} differs by {result.worst:.2g} of the largest output, more than --tolerance "
                    f"{self.args.tolerance:g}"
                )
            elif not result.worst <= _HALF:
                warn(
                    f"{name}, {result.file}: differs by {result.worst:.2g} of the largest output: measure it by --data."
                )
        files = {result.file: vars(result) | {"worst": result.worst} for result, _, _ in self.results}
        write_json(self.folder / "report.json", {"model": name, "files": files})
        write_json(self.folder / "preprocessing.json", self.about)
        return [f"{name}: {sentence}." for sentence in wrong]


def _cells(result: Comparison) -> list[str]:
    speed = "" if result.speed is None else f"{result.speed:.2f}"
    top1 = "" if result.top1 is None else f"{result.top1:.2f}"
    sizes = ", ".join(result.differences)
    return [result.file, f"{result.megabytes:.1f}", f"{result.worst:.1e}", sizes, speed, top1]


def _table() -> Table:
    table = Table(header_style="bold")
    for heading in ("model", "file", "MB", "difference", "compared at", "speed", "top-1 (%)"):
        side = "left" if heading in ("model", "file", "compared at") else "right"
        table.add_column(heading, justify=side, overflow="fold")
    return table


def _inputs_of(model: nn.Module, size: Sequence[int], fixed: bool) -> Inputs:
    """timm's models say whether they take images of any size."""
    any_size = not fixed and not get_model_input_config(model)["fixed_input_size"]
    return Inputs(size[0], size[1], size[2], any_size)


def _about(name: str, loaded: LoadedModel, inputs: Inputs, args: ExportOptions) -> dict[str, Any]:
    """What someone who runs the files must know, for json."""
    config, report = loaded.data_config, loaded.report
    names = describe_classes(loaded.class_names, loaded.model.num_classes)
    return {
        "model": name,
        "weights": report.source if report is not None else "random",
        "input": "images",
        "layout": "(batch, channels, height, width), RGB",
        "type": "uint8" if args.with_preprocessing else "float32",
        "range": [0, 255] if args.with_preprocessing else "0 to 1, then (x - mean) / std",
        "input_size": [inputs.channels, inputs.height, inputs.width],
        "any_size": inputs.any_size,
        **{key: config[key] for key in ("interpolation", "crop_pct", "crop_mode")},
        "mean": [float(value) for value in config["mean"]],
        "std": [float(value) for value in config["std"]],
        "class_names": names,
        "versions": {"backbones": __version__, "torch": str(torch.__version__), "timm": timm.__version__},
    }


def _export_classifier(args: ExportOptions, name: str, folder: Path, table: Table) -> list[str]:
    loaded = load_model(
        name,
        args.checkpoint,
        pretrained=False if args.all else args.pretrained,
        num_classes=args.num_classes,
        in_chans=args.input_size[0] if args.input_size else args.in_chans,
        img_size=args.size,
        data_args=vars(args),
        use_ema=args.use_ema,
        reparam=args.reparam,
        model_kwargs=args.model_kwargs,
    )
    if loaded.report is not None:
        say(loaded.report.render())
    inputs = _inputs_of(loaded.model, loaded.data_config["input_size"], args.fixed_size)
    exported = _Exported(args, folder, loaded.model, inputs, _about(name, loaded, inputs, args))
    exported.write_all()
    if args.int8:
        exported.write_int8(_calibration(args, name, loaded))
    if args.data:
        _measure(args, name, loaded, exported, table)
    return exported.finish(name, table)


def _calibration(args: ExportOptions, name: str, loaded: LoadedModel) -> list[Tensor]:
    """Normalised images to calibrate on, spread over those of the folder."""
    files = find_images([args.int8])
    count = min(args.calibration_images, len(files))
    files = [files[i * len(files) // count] for i in range(count)]
    source = ImageFiles(files, loaded.data_config["input_size"][0], exif_transpose(args, name))
    loader = EvalLoader(source, evaluation_transform(loaded.data_config), 8, workers=0)
    batches = [images[index >= 0] for images, index in loader]
    batches = [images for images in batches if len(images)]
    if not batches:
        raise DataError(f"None of the images of --int8 {args.int8} could be read.")
    return batches


def _measure(args: ExportOptions, name: str, loaded: LoadedModel, exported: _Exported, table: Table) -> None:
    """Top-1 of the model and of every file on labelled images."""
    folder, split = located(args.data, "val")
    chans = loaded.data_config["input_size"][0]
    dataset = build_dataset(folder, split, in_chans=chans, exif_transpose=exif_transpose(args, name))
    outputs, note = match_classes(
        dataset.class_names, loaded.class_names, loaded.model.num_classes, data_name(args.data)
    )
    if note:
        warn(f"{name}: {note}")

    def top1(classifier: nn.Module) -> float:
        loader = EvalLoader(dataset, evaluation_transform(loaded.data_config), 16, workers=0)
        forward = Forward(_AsClassifier(classifier, exported.model), torch.device("cpu"), say=warn)
        return evaluate(forward, loader, outputs=outputs).top1

    table.add_row(name, "in PyTorch", "", "", "", "1.00" if args.rounds else "", f"{top1(exported.model):.2f}")
    for result, module, _ in exported.results:
        result.top1 = top1(module)


def _export_dense(args: ExportOptions, config: str, folder: Path, table: Table) -> list[str]:
    from backbones.export.dense import load_graph  # needs OpenMMLab's packages

    model, about = load_graph(config, args.checkpoint)
    size = args.input_size or (3, *(args.size or (512, 512)))
    about = {"model": config, "input": "images", "layout": "(batch, channels, height, width), RGB", **about}
    exported = _Exported(args, folder, model, Inputs(*size, not args.fixed_size), about)
    exported.write_all()
    return exported.finish(config, table)


def run(argv: Sequence[str] | None) -> int:
    """Exports; exit code 1 when a file differs from its model, or a model could not be exported."""
    args = read_options(ExportOptions, build_parser(), argv)
    folder = Path(args.out)
    check_writable(folder / "report.json")
    if "onnx" in args.formats:
        need("onnx", "onnxscript", "onnxruntime")
    torch.manual_seed(42)  # random weights, where they are asked for, are the same every time
    names = backbones.list_models() if args.all else list(args.model)
    table, wrong = _table(), []
    for name in names:
        export = _export_dense if name.endswith(".py") else _export_classifier
        try:
            wrong += export(args, name, folder / name if args.all else folder, table)
        except ExportError as error:
            wrong.append(f"{name}: {str(error).rstrip('.')}.")
    console.print(table)
    say(
        "difference: in parts of the largest output; speed: times as fast as the model in PyTorch, one image; "
        f"wrote {folder}"
    )
    if args.all:
        with console.capture() as text:
            console.print(table)
        write_text(folder / "report.txt", text.get() + "\n".join(wrong) + "\n")
    for sentence in wrong:
        fail(sentence)
    return 1 if wrong else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    mistakes = (OptionError, ModelError, WeightsError, DataError, InputError, WriteError, ExportError)
    return guarded(run, argv, mistakes)


if __name__ == "__main__":
    raise SystemExit(main())
