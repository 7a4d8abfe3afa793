"""Options that training, validation and prediction share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backbones.train.options import names
from backbones.train.options.option import Options, option

PROBABILITY, NOT_NEGATIVE, POSITIVE, COUNT = "[0, 1]", "[0, inf)", "(0, inf)", "[1, inf)"

CHANNELS: dict[str, Any] = {"choices": (1, 3, 4), "metavar": "N"}


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options, heading="images"):
    """How images are prepared for the model."""

    img_size: int | None = option(None, "input side in pixels (default: the model's)", within=COUNT)
    input_size: tuple[int, int, int] | None = option(
        None, "input channels, height and width; in place of --in-chans and --img-size", within=COUNT, metavar="N"
    )
    crop_pct: float | None = option(None, "centre crop of evaluation (default: the model's)", within="(0, 1]")
    crop_mode: str | None = option(None, "evaluation crop", choices=("center", "squash", "border"))
    mean: tuple[float, ...] | None = option(None, "pixel mean in 0..1 (default: the model's)", within="[0, 1]")
    std: tuple[float, ...] | None = option(
        None, "pixel standard deviation in 0..1 (default: the model's)", within="(0, 1]"
    )
    interpolation: str | None = option(
        None, "resizing in evaluation (default: the model's)", choices=names.INTERPOLATIONS
    )
    exif_transpose: bool | None = option(
        None, "turn photographs upright by their EXIF orientation (default: as the run was trained; else no, as timm)"
    )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that were asked for, in pixels."""
        if self.input_size is not None:
            return self.input_size[1:]
        return None if self.img_size is None else (self.img_size, self.img_size)


@dataclass(frozen=True, kw_only=True)
class MachineOptions(Options):
    """Where and in which precision the model runs."""

    device: str | None = option(
        None, "cuda, cpu or mps (default: the best there is)", rule=names.device, what="cuda, cpu or mps"
    )
    amp: bool = option(False, "mixed precision")
    amp_dtype: str = option("bfloat16", "its type", choices=("bfloat16", "float16"))
    model_dtype: str | None = option(
        None, "type of the weights and the images, without --amp (default: float32)", choices=names.DTYPES
    )
    channels_last: bool = option(False, "channels_last memory format")
    torchcompile: str | None = option(
        None,
        "torch.compile with this backend",
        const="inductor",
        rule=names.compile_backend,
        what="a backend of torch.compile",
        metavar="BACKEND",
    )
    torchcompile_mode: str | None = option(None, "torch.compile mode", choices=names.COMPILE_MODES)
