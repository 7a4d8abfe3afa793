"""What stages of a model see and say: receptive fields, class activation, components and similarity of features."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.visualize.attention import fitted_grid


class StageError(RuntimeError):
    """A model has not what was asked for; the message is a sentence."""


class ReceptiveField(NamedTuple):
    """How much every pixel contributes to the middle of a map.

    Attributes:
        contribution: `(H, W)`, of the image's pixels.
        centre: Row and column of the middle of the map, in pixels of the image.
    """

    contribution: Tensor
    centre: tuple[float, float]

    def radius(self, share: float = 0.5) -> float:
        """Pixels around the centre of the smallest disc that holds this share of all contributions."""
        rows, columns = (
            torch.arange(side, dtype=torch.float32) + 0.5 - middle
            for side, middle in zip(self.contribution.shape, self.centre)
        )
        distance = (rows[:, None].square() + columns.square()).sqrt().flatten()
        order = distance.argsort()
        held = self.contribution.flatten().cpu()[order].double().cumsum(0)
        return float(distance[order][int((held < share * held[-1]).sum())])


class StageOutputs(NamedTuple):
    """One run of a model.

    Attributes:
        outputs: What each stage returned, as it did.
        maps: The same as maps `(B, C, H, W)`, without tokens in front of them.
        logits: `(B, classes)`.
    """

    outputs: list[Tensor]
    maps: list[Tensor]
    logits: Tensor


def stage_names(model: nn.Module) -> list[str]:
    """The modules whose outputs are a model's features, in order (timm's `feature_info`).

    Raises:
        StageError: The model does not say.
    """
    info = getattr(model, "feature_info", None) or []
    names = [entry.get("module", "") for entry in getattr(info, "info", info)]
    modules = dict(model.named_modules())
    if not names or not all(names) or not all(name in modules for name in names):
        raise StageError(f"{type(model).__name__} does not say which of its modules are stages.")
    return names


def run_stages(model: nn.Module, images: Tensor) -> StageOutputs:
    """Run a model on images `(B, C, H, W)` and keep what its stages return."""
    names, outputs = stage_names(model), {}

    def keeping(name: str):
        def keep(module: nn.Module, given: tuple, out) -> None:
            outputs[name] = out[0] if isinstance(out, tuple) else out

        return keep

    with contextlib.ExitStack() as stack:
        for name in names:
            stack.callback(model.get_submodule(name).register_forward_hook(keeping(name)).remove)
        logits = model(images)
    logits = logits[0] if isinstance(logits, tuple) else logits
    kept = [outputs[name] for name in names]
    return StageOutputs(kept, [as_map(model, i, out, images) for i, out in enumerate(kept)], logits)


def as_map(model: nn.Module, stage: int, out: Tensor, images: Tensor) -> Tensor:
    """What a stage returned, or its gradient, as `(B, C, H, W)`."""
    info = getattr(model.feature_info, "info", model.feature_info)[stage]
    if out.ndim == 4:
        first = out.shape[1] == info["num_chs"] and getattr(model, "output_fmt", "NCHW") != "NHWC"
        return out if first else out.permute(0, 3, 1, 2)
    height, width = (side // info["reduction"] for side in images.shape[2:])
    if height * width > out.shape[1]:
        height, width = fitted_grid(out.shape[1] - getattr(model, "num_prefix_tokens", 0), height / width)
    return out[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))


def receptive_fields(model: nn.Module, batches: Iterable[Tensor]) -> list[ReceptiveField]:
    """The effective receptive field of each stage.

    The gradient of the positive features at the centre with respect to the image, in magnitude, summed over colours and
    averaged over images (Luo et al., arXiv 1701.04128; Ding et al., arXiv 2203.06717, section 5).

    Args:
        model: In evaluation mode.
        batches: Normalised images `(B, C, H, W)`, all of one size.
    """
    totals: dict[int, Tensor] = {}
    centres: dict[int, tuple[float, float]] = {}
    count = 0
    for batch in batches:
        with torch.enable_grad():
            images = batch.clone().requires_grad_()
            maps = run_stages(model, images).maps
        for i, features in enumerate(maps):
            middle = [side // 2 for side in features.shape[2:]]
            total = features[:, :, middle[0], middle[1]].relu().sum()
            (gradient,) = torch.autograd.grad(total, images, retain_graph=i + 1 < len(maps))
            totals[i] = totals.get(i, 0) + gradient.abs().sum((0, 1))
            sides = zip(middle, features.shape[2:], images.shape[2:])
            centres[i] = tuple((place + 0.5) * pixels / side for place, side, pixels in sides)
        count += len(batch)
    return [ReceptiveField(total / count, centres[i]) for i, total in totals.items()]


def class_activation(model: nn.Module, images: Tensor, classes: Tensor, stage: int | None = None) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391): `(B, h, w)` in 0..1.

    Args:
        model: In evaluation mode, with a classifier.
        images: Normalised, `(B, C, H, W)`.
        classes: `(B,)`, the output that is explained.
        stage: Of the features. By default the last one whose map the output depends on: in models that read their
            class token alone, what the last block does to the others reaches nothing.

    Raises:
        StageError: The model has no classes, or the output does not depend on the stage's map.
    """
    if not model.num_classes:
        raise StageError(f"{type(model).__name__} has no classes, so there is no class activation.")
    with torch.enable_grad():
        run = run_stages(model, images.clone().requires_grad_())
        chosen = run.logits.gather(1, classes[:, None]).sum()
        stages = reversed(range(len(run.maps))) if stage is None else [range(len(run.maps))[stage]]
        for i in stages:
            (gradient,) = torch.autograd.grad(chosen, run.outputs[i], retain_graph=True, allow_unused=True)
            gradient = None if gradient is None else as_map(model, i, gradient, images)
            if gradient is not None and gradient.any():
                heat = (gradient.mean((2, 3), keepdim=True) * run.maps[i]).sum(1).relu().detach()
                return heat / heat.amax((1, 2), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)
    raise StageError(f"The output of {type(model).__name__} does not depend on the map of stage {stage}.")


@torch.no_grad()
def components(features: Tensor) -> Tensor:
    """The three principal components of features `(B, C, H, W)` over all images, as colours `(B, H, W, 3)` in 0..1."""
    rows = features.permute(0, 2, 3, 1).flatten(0, 2).float()
    rows = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    axes = vectors[:, values.argsort(descending=True)[:3]]
    # The sign of a component is arbitrary: its largest entry is made positive, so that colours repeat.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    colours = F.pad(rows @ axes, (0, 3 - axes.shape[1]))
    low, high = (colours.quantile(q, dim=0) for q in (0.01, 0.99))
    colours = ((colours - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return colours.unflatten(0, (features.shape[0], *features.shape[2:]))


@torch.no_grad()
def similarity(features: Tensor, y: int, x: int) -> Tensor:
    """Cosines `(B, H, W)` of the features `(B, C, H, W)` of one position, at row y and column x, with those of all."""
    unit = F.normalize(features.float(), dim=1)
    return torch.einsum("bchw,bc->bhw", unit, unit[:, :, y, x])
