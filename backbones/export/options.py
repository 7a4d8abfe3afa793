"""Options of `backbones-export`."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.train.options.evaluation import WeightsOptions
from backbones.train.options.option import OptionError, Options, option
from backbones.train.options.shared import COUNT, NOT_NEGATIVE, ImageOptions

FORMATS = ("onnx", "pt2")


@dataclass(frozen=True, kw_only=True)
class ExportedModels(Options, heading="model"):
    """What is exported."""

    model: tuple[str, ...] = option(
        (),
        "model name (with or without tag), run folder, checkpoint in one, or a config of a detector or segmentor",
        positional=True,
        metavar="MODEL",
    )
    all: bool = option(False, "every model of the zoo, with random weights, each into a folder of its own")
    checkpoint: str | None = option(None, "weights for a model given by name, or for a config", metavar="FILE")
    reparam: bool = option(True, "merge re-parameterisable blocks")


@dataclass(frozen=True, kw_only=True)
class ExportedFiles(Options, heading="files"):
    """Which files are written."""

    out: str = option(None, "folder of the files", short=("-o",), metavar="DIR", required=True)
    formats: tuple[str, ...] = option(FORMATS, "which", choices=FORMATS)
    fixed_size: bool = option(False, "take images of one size only, also where the model takes any")
    with_preprocessing: bool = option(
        False, "the graph takes uint8 RGB images, resized and cropped, and normalises them itself"
    )
    half: bool = option(False, "also in float16, with float32 inputs and outputs")
    int8: str | None = option(None, "also as ONNX in int8, calibrated on the images of this folder", metavar="DIR")
    calibration_images: int = option(128, "images that --int8 looks at", within=COUNT)
    opset: int | None = option(None, "ONNX operator set (default: the exporter's)", within="[18, inf)")


@dataclass(frozen=True, kw_only=True)
class ExportedProof(Options, heading="comparison"):
    """How the files are compared with the model."""

    data: str | None = option(
        None, "labelled images, a folder with val/<class>/... or <class>/...: top-1 of the model and each file",
        metavar="DIR",
    )  # fmt: skip
    tolerance: float = option(
        1e-3, "largest difference of float32 files, in parts of the largest output", within=NOT_NEGATIVE
    )
    rounds: int = option(5, "turns of a comparison of speed; 0: none", within=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ExportedModels, ExportedFiles, ExportedProof, WeightsOptions, ImageOptions):
    """All options of export."""

    def __post_init__(self) -> None:
        if bool(self.model) == self.all or len(self.model) > 1:
            raise OptionError("Name one model, or give --all in its place.")
        if self.int8 and "onnx" not in self.formats:
            raise OptionError("--int8 is a form of ONNX files: leave out --formats, or add onnx to it.")
        if self.all and (self.checkpoint or self.int8 or self.data):
            raise OptionError("--all exports random weights: leave out --checkpoint, --int8 and --data.")
