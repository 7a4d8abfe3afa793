"""Results and speed of written files against the model that they were written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from backbones._compat import tree_leaves
from backbones.benchmark.measure import interleave, ratio
from backbones.export.graphs import Deployed, Inputs
from backbones.utils.text import first_line


@dataclass
class Comparison:
    """A file against its model.

    Attributes:
        file: Its name.
        megabytes: Its size, with its weights.
        differences: By input, such as `2x3x288x192`: the largest difference, in parts of the largest output.
        failures: By input: why the file does not take it.
        speed: How many times as fast as the model, at the model's own image size; None where not measured.
        top1: Accuracy on labelled images, percent; None where not measured.
        notes: What else the user should know.
    """

    file: str
    megabytes: float
    differences: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    speed: float | None = None
    top1: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def worst(self) -> float:
        """The largest of the differences."""
        return max(self.differences.values(), default=float("nan"))


@torch.no_grad()
def compare(result: Comparison, file: nn.Module, model: Deployed, inputs: Inputs, rounds: int) -> None:
    """Fill in differences, failures and speed.

    Args:
        result: Of the file.
        file: As a module.
        model: What the file should compute, in float32.
        inputs: That the file takes.
        rounds: Turns of the comparison of speed; 0 for none.
    """
    for seed, (batch, height, width) in enumerate(inputs.trials):
        x = model.images(batch, height, width, inputs.channels, seed)
        name = "x".join(map(str, x.shape))
        try:
            found = file(x)
        except Exception as error:  # runtimes fail in any way
            result.failures[name] = first_line(error)
            continue
        result.differences[name] = difference(found, model(x))
    if rounds and result.differences:
        x = model.images(*inputs.trials[0], inputs.channels)
        mine, eager = interleave([lambda: file(x), lambda: model(x)], x.device, rounds, seconds=0.3)
        result.speed = ratio(mine, eager)[0]


def difference(found: object, expected: object) -> float:
    """The largest difference of two results, in parts of the largest number of each expected tensor."""
    pairs = list(zip(tensors(found), tensors(expected), strict=True))
    return max(((a.double() - b.double()).abs().max() / b.double().abs().max()).item() for a, b in pairs)


def tensors(result: object) -> Sequence[Tensor]:
    """The tensors of a nested result, in order."""
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
