"""Options of `backbones-visualize`."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.train.options.evaluation import WeightsOptions
from backbones.train.options.option import OptionError, Options, option
from backbones.train.options.shared import COUNT, ImageOptions

SHOWN = ("attention", "selection", "cam", "components", "similarity", "receptive-field", "page")


def _place(text: str) -> None:
    sides = text.split(",")
    if len(sides) != 2 or not all(side.strip().isdigit() for side in sides):
        raise ValueError("must be two numbers of pixels, x,y, as in 120,80")


@dataclass(frozen=True, kw_only=True)
class ShownImages(Options, heading="model and images"):
    """What is looked into, and with which images."""

    words: tuple[str, ...] = option(
        (),
        "model name (with or without tag), run folder, or checkpoint in one; then image files, folders (searched "
        "through), or globs",
        positional=True,
        metavar="MODEL IMAGE",
    )
    checkpoint: str | None = option(None, "weights for a model given by name", metavar="FILE")
    limit: int = option(8, "images that are drawn", within=COUNT)
    field_limit: int = option(64, "images that receptive fields are averaged over", within=COUNT)


@dataclass(frozen=True, kw_only=True)
class ShownViews(Options, heading="pictures"):
    """What is drawn."""

    out: str = option(None, "folder of the pictures", short=("-o",), metavar="DIR", required=True)
    show: tuple[str, ...] = option(SHOWN, "which", choices=SHOWN)
    at: str | None = option(
        None, "the query, x,y in pixels of the image as the model sees it (default: its middle)", rule=_place,
        metavar="X,Y",
    )  # fmt: skip
    stage: int | None = option(
        None,
        "stage, from 0, of attention, similarity and class activation; negative from the end (default: the last with "
        "attention on 10 x 10 positions or more; of class activation, the last that the class depends on)",
    )
    block: int = option(-1, "which of the stage's layers with attention, from 0; negative from the end")
    head: int | None = option(None, "draw one head, from 0 (default: their mean and up to 8 of them)")
    target: str | None = option(None, "class of class activation, its name or number (default: the predicted one)")


@dataclass(frozen=True, kw_only=True)
class VisualizeOptions(ShownImages, ShownViews, WeightsOptions, ImageOptions):
    """All options of visualize."""

    def __post_init__(self) -> None:
        if len(self.words) < 2:
            raise OptionError("Name a model, and then images, folders or globs.")
