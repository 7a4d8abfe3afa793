"""From a model to a graph: what is exported, for which sizes, and how files are written and run."""

from __future__ import annotations

import contextlib
import importlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones._compat import tree_map_only
from backbones.utils.files import WriteError
from backbones.utils.text import first_line


class ExportError(RuntimeError):
    """A model cannot be exported as asked for; the message is one sentence."""


class Deployed(nn.Module):
    """What a file computes: a model, its preprocessing before it and its precision inside.

    Args:
        model: In evaluation mode.
        mean, std: Of every channel, in 0..1; None where images come normalised.
        half: Compute in float16.

    Maps images `(B, C, H, W)`, normalised float32 or, with `mean` and `std`, uint8, to the model's outputs in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.model = model.half() if half else model
        self.half_inside, self.normalises = half, mean is not None
        if mean is not None and std is not None:
            mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
            self.register_buffer("scale", 1 / (255 * std), persistent=False)
            self.register_buffer("offset", mean / std, persistent=False)

    def forward(self, x: Tensor) -> Any:
        if self.normalises:
            x = x * self.scale - self.offset
        if not self.half_inside:
            return self.model(x)
        return tree_map_only(Tensor, Tensor.float, self.model(x.half()))

    def unnormalised(self, x: Tensor) -> Tensor:
        """Normalised images as `forward` takes them."""
        return ((x + self.offset) / self.scale).round().clamp(0, 255).byte() if self.normalises else x

    def images(self, batch: int, height: int, width: int, channels: int, seed: int = 0) -> Tensor:
        """Random images of the kind that `forward` takes."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, channels, height, width)
        if self.normalises:
            return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        return torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class Inputs:
    """The inputs that a graph is made for.

    Attributes:
        channels, height, width: Of the images that the model is meant for.
        any_size: Height and width are free; otherwise the number of images alone is.
    """

    channels: int
    height: int
    width: int
    any_size: bool

    def example(self, model: Deployed) -> Tensor:
        """Images to export with; not square where sizes are free, or both sides would be one symbol."""
        return model.images(2, self.height + 32 * self.any_size, self.width, self.channels)

    @property
    def dynamic(self) -> tuple[dict[int, Any]]:
        """`dynamic_shapes` of `torch.export`."""
        return ({dim: torch.export.Dim.DYNAMIC for dim in ((0, 2, 3) if self.any_size else (0,))},)

    @property
    def trials(self) -> list[tuple[int, int, int]]:
        """`(batch, height, width)` of three inputs to compare results on, the model's own size first."""
        if not self.any_size:
            return [(batch, self.height, self.width) for batch in (1, 2, 3)]
        narrow = max(self.width - 32, 64)  # maps of one pixel, of images of 32, need a graph of their own
        return [(1, self.height, self.width), (2, self.height + 64, narrow), (1, self.height, self.width + 96)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' progress and warnings, which are not about the user's model."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def need(*packages: str) -> list[Any]:
    """Imported packages.

    Raises:
        ExportError: One of them is not installed.
    """
    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        raise ExportError(f"ONNX files need the package {error.name}: pip install 'backbones[export]'.") from error


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A path in a folder of its own beside `path`; what is written there is moved beside `path` in the end.

    ONNX models of 2 GB and more are several files.

    Raises:
        WriteError: When the files cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder) / path.name
            for file in sorted(Path(folder).iterdir(), reverse=True):  # the model after the weights that it names
                file.replace(path.parent / file.name)
    except OSError as error:
        raise WriteError(f"Cannot write {path}: {error.strerror or error}.") from error


def write(model: Deployed, inputs: Inputs, path: Path, opset: int | None = None) -> None:
    """Write a model as an ONNX file, whose input is `images`, or as a `torch.export` program: as the suffix says.

    Raises:
        ExportError: The exporter cannot.
    """
    try:
        with quiet():
            _write_onnx(model, inputs, path, opset) if path.suffix == ".onnx" else _write_program(model, inputs, path)
    except (ExportError, WriteError):
        raise
    except Exception as error:  # exporters fail in any way
        raise ExportError(f"{path.name}: the exporter cannot take the model apart: {first_line(error)}") from error


def _write_onnx(model: Deployed, inputs: Inputs, path: Path, opset: int | None) -> None:
    need("onnx", "onnxscript")
    program = torch.onnx.export(
        model,
        (inputs.example(model),),
        dynamic_shapes=inputs.dynamic,
        input_names=["images"],
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    with appearing(path) as aside:
        program.save(aside)


def _write_program(model: Deployed, inputs: Inputs, path: Path) -> None:
    program = torch.export.export(model, (inputs.example(model),), dynamic_shapes=inputs.dynamic)
    with appearing(path) as aside:
        torch.export.save(program, aside)


class OnnxFile(nn.Module):
    """An ONNX file as a module, run by onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        (runtime,) = need("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised too
        self.session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (self.input,) = (given.name for given in self.session.get_inputs())

    def forward(self, x: Tensor) -> Any:
        outputs = tuple(map(torch.from_numpy, self.session.run(None, {self.input: x.numpy()})))
        return outputs[0] if len(outputs) == 1 else outputs


def open_file(path: Path) -> nn.Module:
    """A written file as a module."""
    if path.suffix == ".onnx":
        return OnnxFile(path)
    with quiet():
        return torch.export.load(path).module()
