"""Calls of every operator that is provided, and what proves them: `tools/dense/check_ops.py`, tests and fixtures."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import backbones_mmcv
from backbones.dense.ops import problem
from backbones.dense.ops.extension import BUILD, Extension, using
from backbones.utils.files import replacing

#: Largest difference in units of the largest value, for sums in another order.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@dataclass(frozen=True)
class Case:
    """A call of an operator of mmcv.

    Attributes:
        name: The operator, and what is particular of the call.
        call: From mmcv's `ops` and the inputs to one or more tensors, or lists of indices.
        inputs: Makes the inputs from random numbers, in float64; `call` gets them in the precision of the run.
        differentiable: The inputs whose gradients are compared.
    """

    name: str
    call: Callable[..., Any]
    inputs: Callable[[np.random.RandomState], tuple[Tensor, ...]]
    differentiable: tuple[int, ...] = ()

    def make(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """The inputs, always the same."""
        made = self.inputs(np.random.RandomState(0))
        made = (x.to(device, dtype if x.is_floating_point() else x.dtype) for x in made)
        return tuple(x.requires_grad_(i in self.differentiable) for i, x in enumerate(made))

    def results(self, *inputs: Tensor) -> list[Tensor]:
        """Outputs, and gradients of the differentiable inputs for a fixed gradient of the first output."""
        import mmcv.ops

        out = self.call(mmcv.ops, *inputs)
        outs = [torch.as_tensor(x) for x in (out if isinstance(out, (tuple, list)) else (out,))]
        if not self.differentiable:
            return outs
        steps = torch.arange(outs[0].numel(), device=outs[0].device, dtype=torch.float64)
        grad = steps.sin().to(outs[0].dtype).view_as(outs[0])
        wanted = [inputs[i] for i in self.differentiable]
        return [out.detach() for out in outs] + list(torch.autograd.grad(outs[0], wanted, grad))


def _boxes(random: np.random.RandomState, count: int, size: float = 40) -> Tensor:
    corners = torch.from_numpy(random.uniform(0, size, (count, 2, 2)))
    return corners.sort(dim=1).values.flatten(1)


def _scored(random: np.random.RandomState, count: int = 60) -> tuple[Tensor, ...]:
    return _boxes(random, count), torch.from_numpy(random.permutation(count) / count)


def _classed(random: np.random.RandomState) -> tuple[Tensor, ...]:
    return *_scored(random), torch.from_numpy(random.randint(0, 3, 60))


def _dets(random: np.random.RandomState) -> tuple[Tensor, ...]:
    boxes, scores = _scored(random)
    return (torch.cat([boxes, scores[:, None]], dim=1),)


def _pairs(random: np.random.RandomState) -> tuple[Tensor, ...]:
    return _boxes(random, 9), _boxes(random, 9)


def _regions(random: np.random.RandomState) -> tuple[Tensor, ...]:
    """Maps of 2 images, and regions in, across and beyond their borders, one of them without area."""
    boxes = _boxes(random, 6, 30)
    odd = torch.tensor(
        [[-9.0, -5.0, 7.0, 9.0], [25.0, 20.0, 60.0, 70.0], [90.0, 90.0, 99.0, 99.0], [8.0, 8.0, 8.0, 8.0]]
    )
    image = torch.arange(10) % 2
    return torch.from_numpy(random.randn(2, 3, 14, 16)), torch.cat([image[:, None], torch.cat([boxes, odd])], dim=1)


def _deformable(
    random: np.random.RandomState, groups: int = 1, points: int = 1, modulated: bool = False
) -> tuple[Tensor, ...]:
    """Input, offset, and for the modulated form mask and bias, with the weight third from the start."""
    x, weight = random.randn(2, 4, 7, 9), random.randn(6, 4 // groups, 3, 3)
    offset, mask = 2 * random.randn(2, points * 18, 4, 5), random.rand(2, points * 9, 4, 5)
    arrays = [x, offset, mask, weight, random.randn(6)] if modulated else [x, offset, weight]
    return tuple(map(torch.from_numpy, arrays))


def _attention(random: np.random.RandomState) -> tuple[Tensor, ...]:
    shapes = torch.tensor([[6, 8], [3, 4]])
    value, at = random.randn(2, 60, 2, 4), random.uniform(-0.2, 1.2, (2, 5, 2, 2, 3, 2))
    weights = torch.from_numpy(random.randn(2, 5, 2, 6)).softmax(-1).view(2, 5, 2, 2, 3)
    return torch.from_numpy(value), shapes, torch.tensor([0, 48]), torch.from_numpy(at), weights


def _logits(random: np.random.RandomState, classes: int = 5) -> tuple[Tensor, ...]:
    target = torch.from_numpy(random.randint(0, classes, 12))
    return torch.from_numpy(3 * random.randn(12, classes)), target, torch.from_numpy(random.rand(classes))


def _upsampled(random: np.random.RandomState) -> tuple[Tensor, ...]:
    masks = torch.from_numpy(random.randn(2, 2, 25, 8, 10)).softmax(2).flatten(1, 2)
    return torch.from_numpy(random.randn(2, 4, 4, 5)), masks


def _chosen(random: np.random.RandomState) -> tuple[Tensor, ...]:
    x, mask = random.randn(1, 3, 6, 7), random.rand(1, 6, 7) > 0.5
    return tuple(map(torch.from_numpy, (x, mask, random.randn(4, 3, 3, 3), random.randn(4))))


def _around(random: np.random.RandomState) -> tuple[Tensor, ...]:
    return (torch.from_numpy(random.randn(2, 5 * 7, 4, 6)),)


def _cases() -> list[Case]:
    cases = [
        Case("nms", lambda ops, *x: ops.nms(*x, 0.4), _scored),
        Case("nms, corners in the box", lambda ops, *x: ops.nms(*x, 0.4, 1, score_threshold=0.2, max_num=9), _scored),
        Case("nms, by class", lambda ops, *x: ops.batched_nms(*x, dict(type="nms", iou_threshold=0.3)), _classed),
        Case("nms_match", lambda ops, x: ops.nms_match(x, 0.3), _dets),
    ]
    for method in ("naive", "linear", "gaussian"):
        call = partial(lambda ops, *x, method: ops.soft_nms(*x, 0.3, 0.5, 0.05, method), method=method)
        cases.append(Case(f"soft_nms, {method}", call, _scored))
    for mode, aligned in (("iou", False), ("iof", False), ("iou", True)):
        call = partial(lambda ops, *x, **options: ops.bbox_overlaps(*x, **options), mode=mode, aligned=aligned)
        cases.append(Case(f"bbox_overlaps, {mode}{', aligned' if aligned else ''}", call, _pairs))
    for mode, ratio, aligned in (("avg", 0, True), ("avg", 2, True), ("avg", 0, False), ("max", 2, False)):
        call = partial(lambda ops, *x, last: ops.roi_align(*x, (3, 4), 0.5, *last), last=(ratio, mode, aligned))
        cases.append(Case(f"roi_align, {mode}, {ratio} samples, aligned {aligned}", call, _regions, (0,)))
    cases.append(Case("roi_pool", lambda ops, *x: ops.roi_pool(*x, (3, 4), 0.5), _regions, (0,)))
    for groups, points in ((1, 1), (2, 2)):
        call = partial(lambda ops, *x, last: ops.deform_conv2d(*x, 2, 2, 2, *last), last=(groups, points))
        inputs = partial(_deformable, groups=groups, points=points)
        cases.append(Case(f"deform_conv2d, groups {groups} and {points}", call, inputs, (0, 1, 2)))
        call = partial(lambda ops, *x, last: ops.modulated_deform_conv2d(*x, 2, 2, 2, *last), last=(groups, points))
        inputs = partial(inputs, modulated=True)
        cases.append(Case(f"modulated_deform_conv2d, groups {groups} and {points}", call, inputs, (0, 1, 2, 3, 4)))
    cases += [
        Case(
            "multi-scale deformable attention",
            lambda ops, *x: ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply(*x, 64),
            _attention,
            (0, 3, 4),
        ),
        Case(
            "sigmoid_focal_loss", lambda ops, *x: ops.sigmoid_focal_loss(*x[:2], 2.0, 0.25, x[2], "none"), _logits, (0,)
        ),
        Case(
            "softmax_focal_loss", lambda ops, *x: ops.softmax_focal_loss(*x[:2], 2.0, 0.25, x[2], "sum"), _logits, (0,)
        ),
        Case("carafe", lambda ops, *x: ops.carafe(*x, 5, 2, 2), _upsampled, (0, 1)),
        Case("carafe_naive", lambda ops, *x: ops.carafe_naive(*x, 5, 2, 2), _upsampled),
        Case("masked_conv2d", lambda ops, *x: ops.masked_conv2d(*x, 1), _chosen),
    ]
    for kind in ("collect", "distribute"):
        call = partial(lambda ops, x, kind: ops.PSAMask(kind, (5, 7))(x), kind=kind)
        cases.append(Case(f"psa_mask, {kind}", call, _around, (0,)))
    return cases


CASES = {case.name: case for case in _cases()}


def run(case: Case, device: torch.device | str, dtype: torch.dtype) -> list[Tensor]:
    """The case's results in a precision on a device, on the CPU."""
    return [x.cpu() for x in case.results(*case.make(device, dtype))]


def difference(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference, each result's in units of its largest value; infinite where shapes or indices differ."""
    if [x.shape for x in results] != [x.shape for x in expected]:
        return float("inf")
    worst = 0.0
    for ours, theirs in zip(results, expected):
        if not theirs.is_floating_point():
            if not torch.equal(ours, theirs):
                return float("inf")
        elif theirs.numel():
            scale = theirs.double().abs().max().clamp(min=1e-30)
            worst = max(worst, float((ours.double() - theirs.double()).abs().max() / scale))
    return worst


def _compiled() -> bool:
    import mmcv.ops  # noqa: F401

    return not isinstance(sys.modules[backbones_mmcv.NAME], Extension)


def prove(device: str) -> bool:
    """Print, and return whether, each operator computes on a device what it must.

    That is what mmcv's compiled operators compute, where they are installed and know the device; otherwise what the
    same operator computes in double precision on the CPU.
    """
    good = True
    for name, case in CASES.items():
        with using(Extension()):
            ours, exact = run(case, device, torch.float32), run(case, "cpu", torch.float64)
        against = "float64 on cpu"
        if _compiled():
            try:
                exact, against = run(case, device, torch.float32), "compiled mmcv"
            except RuntimeError as error:
                if "not found" not in str(error):  # implementation for device
                    raise
        worst = difference(ours, exact)
        right = worst <= TOLERANCE[torch.float32]
        print(f"{device}  {name:52} {worst:8.1e}  against {against}{'' if right else '  WRONG'}")
        good &= right
    return good


def _numbers(x: Tensor) -> list[float] | list[int]:
    values = x.flatten().tolist()
    return [float(f"{value:.8g}") for value in values] if x.is_floating_point() else values


def write(file: Path) -> None:
    """Keep what the compiled operators compute on the CPU, as numbers for the tests."""
    found = {}
    for name, case in CASES.items():
        try:
            found[name] = [[list(x.shape), _numbers(x)] for x in run(case, "cpu", torch.float32)]
        except RuntimeError as error:
            if "not found" not in str(error):
                raise
    with replacing(file) as temporary:
        temporary.write_bytes(gzip.compress(json.dumps(found, separators=(",", ":")).encode(), mtime=0))
    print(f"{len(found)} of {len(CASES)} calls written to {file}")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `tools/dense/check_ops.py`; the exit status is 0 if all operators compute what they must."""
    parser = argparse.ArgumentParser(prog="check_ops", description=prove.__doc__)
    parser.add_argument("--compiled", action="store_true", help="fail unless mmcv's compiled operators are there")
    parser.add_argument(
        "--write", metavar="FILE", type=Path, help="write the compiled operators' numbers for the tests"
    )
    args = parser.parse_args(argv)
    found = problem()
    if not found and (args.compiled or args.write) and not _compiled():
        found = f"mmcv has no compiled operators that work: build them by {BUILD}."
    if found:
        print(f"error: {found}", file=sys.stderr)
        return 2
    if args.write:
        write(args.write)
        return 0
    print(f"operators of mmcv: {'compiled' if _compiled() else 'those of backbones'}; torch {torch.__version__}")
    devices = ("cpu", *(("cuda",) if torch.cuda.is_available() else ()))
    return 0 if all([prove(device) for device in devices]) else 1
