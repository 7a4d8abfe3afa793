"""Options of ``backbones-validate`` and ``backbones-predict``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backbones.train.options import names
from backbones.train.options.option import OptionError, Options, option
from backbones.train.options.shared import CHANNELS, COUNT, NOT_NEGATIVE, ImageOptions, MachineOptions


@dataclass(frozen=True, kw_only=True)
class WeightsOptions(Options, heading="model"):
    """Which weights are loaded, and into what."""

    use_ema: bool = option(False, "load the averaged weights")
    pretrained: bool | None = option(
        None, "fetch the published weights (default: when no file gives weights); --no-pretrained: random ones"
    )
    num_classes: int | None = option(None, "outputs (default: the model's or the run's)", within=COUNT)
    in_chans: int | None = option(None, "image channels (default: the model's or the run's)", **CHANNELS)
    model_kwargs: Mapping[str, Any] = option({}, "more arguments of the model: key=value …", rule=names.model_arguments)
    reparam: bool = option(False, "merge re-parameterisable blocks after loading")


@dataclass(frozen=True, kw_only=True)
class EvaluationImageOptions(ImageOptions, heading="images"):
    """How images are prepared in evaluation."""

    use_train_size: bool = option(False, "ignore a larger published test size")


@dataclass(frozen=True, kw_only=True)
class EvaluationMachineOptions(MachineOptions, heading="machine"):
    """Where and how evaluation computes."""

    batch_size: int = option(128, "images at once", within=COUNT, short=("-b",))
    workers: int = option(2, "loader processes", within=NOT_NEGATIVE, short=("-j",))
    tta: bool = option(False, "average over the image and its mirror image")
    crops: int = option(
        1, "average over the centre (1), the corners and the centre (5), these and their mirror images (10)",
        choices=(1, 5, 10),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(WeightsOptions, EvaluationImageOptions, EvaluationMachineOptions):
    """What validation and prediction share."""

    def __post_init__(self) -> None:
        if self.crops > 1 and self.crop_mode not in (None, "center"):
            raise OptionError(f"--crops {self.crops} are cut from the whole image: leave out --crop-mode.")
        if self.amp and self.model_dtype not in (None, "float32"):
            raise OptionError(f"--model-dtype {self.model_dtype} is the precision of everything: leave out --amp.")


@dataclass(frozen=True, kw_only=True)
class MeasuredModels(Options, heading="models"):
    """The models that are measured."""

    models: tuple[str, ...] = option(
        (), "model name (with or without tag), run folder, or checkpoint in one", positional=True, metavar="MODEL"
    )
    model: tuple[str, ...] = option((), "the same, as a flag", short=("-m",), metavar="MODEL")
    checkpoint: tuple[str, ...] = option((), "weights: one file, or one for each model", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class MeasuredData(Options, heading="data (default: that of the run; else scikit-learn's handwritten digits)"):
    """The labelled images."""

    data: str | None = option(
        None, "folder with val/<class>/... or <class>/..., or a timm scheme (wds/..., hfds/...)", metavar="DIR"
    )
    data_dir: str | None = option(None, "the same folder, or the root of the scheme's data", metavar="DIR")
    dataset: str | None = option(None, "timm dataset name; the same as a scheme in --data", short=("-d",))
    split: str | None = option(None, "split to measure on (default: val)")
    class_map: str | None = option(None, "file that maps class names to labels", metavar="FILE")
    num_samples: int | None = option(None, "images of a streamed split that does not say", within=COUNT)
    dataset_download: bool = option(False, "let torch/ and tfds/ data download itself")
    input_key: str | None = option(None, "key of the images in hfds/ and wds/ data")
    target_key: str | None = option(None, "key of the labels in hfds/ and wds/ data")
    max_unreadable: int = option(50, "unreadable images to tolerate", within=NOT_NEGATIVE)
    unreadable_log: str | None = option(None, "name unreadable images in this file", metavar="FILE")
    valid_labels: str | None = option(
        None, "file of the model's outputs that stand for the data's classes in order, one a line", metavar="FILE"
    )
    real_labels: str | None = option(None, "ImageNet-ReaL labels (real.json) for the val images", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class MeasuredResults(Options, heading="results"):
    """Where figures are written."""

    results_file: str | None = option(
        None, "the table as FILE.csv or FILE.json; without a suffix, both", metavar="FILE"
    )
    per_class: str | None = option(None, "precision, recall, F1 and support of every class", metavar="FILE.csv")
    confusion: str | None = option(None, "picture of the confusion matrix", metavar="FILE.png")


@dataclass(frozen=True, kw_only=True)
class ValidateOptions(MeasuredModels, MeasuredData, MeasuredResults, EvaluationOptions):
    """All options of validation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.valid_labels and self.real_labels:
            raise OptionError("--real-labels judges all classes and --valid-labels some: give one of them.")
        specs = [*self.models, *self.model]
        if not specs:
            raise OptionError("Name at least one model: a name such as nat_m, the folder of a run, or a checkpoint.")
        if self.checkpoint and len(self.checkpoint) != len(specs):
            raise OptionError(
                f"--checkpoint gives {len(self.checkpoint)} files for {len(specs)} models: give one for each."
            )


@dataclass(frozen=True, kw_only=True)
class PredictedImages(Options, heading="images and model"):
    """The model that predicts, and the images."""

    inputs: tuple[str, ...] = option(
        (), "image files, folders (searched through), or globs", positional=True, metavar="INPUT"
    )
    model: str = option(
        None, "model name (with or without tag), run folder, or checkpoint", short=("-m",), required=True
    )
    checkpoint: str | None = option(None, "weights for a model given by name", metavar="FILE")
    digits: int | None = option(None, "predict N held-out handwritten digits instead of files", within="[1, 355]")


@dataclass(frozen=True, kw_only=True)
class PredictedResults(Options, heading="results"):
    """What is said of the images."""

    topk: int = option(5, "classes to say of each image", within=COUNT)
    class_map: str | None = option(None, "class names: one a line, or JSON", metavar="FILE")
    output_type: str | None = option(
        None, "form of the results (default: as the suffix of --output says)", choices=("text", "csv", "json")
    )
    output: str | None = option(None, "write there instead of to the terminal", short=("-o",), metavar="FILE")
    sheet: str | None = option(None, "picture of the images with what was said of them", metavar="FILE.png")
    sheet_limit: int = option(60, "pictures on it", within=COUNT)


@dataclass(frozen=True, kw_only=True)
class PredictOptions(PredictedImages, PredictedResults, EvaluationOptions):
    """All options of prediction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.inputs) == (self.digits is not None):
            raise OptionError(
                "Give either images or --digits, not both."
                if self.inputs
                else "Nothing to predict: name images, folders or globs, or --digits N."
            )
