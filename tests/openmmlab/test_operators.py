"""What the operators compute: the numbers of mmcv's compiled ones, the definitions of papers, right gradients."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import mmcv.ops
import pytest
import torch

from backbones.benchmark import cli as benchmark
from backbones.dense.ops import proof
from backbones.dense.ops.extension import Extension, OperatorsError, using
from tests.openmmlab import definitions as defined

COMPILED = json.loads(gzip.decompress((Path(__file__).parent / "operators.json.gz").read_bytes()))
#: Cases of which mmcv has no compiled operator for CPUs; `make prove-ops` compares them where there is a GPU.
GPU_ONLY = {
    "roi_pool",
    "multi-scale deformable attention",
    "sigmoid_focal_loss",
    "softmax_focal_loss",
    "carafe",
    "carafe_naive",
    "masked_conv2d",
}
DEFINITIONS = {
    "roi_align, avg, 0 samples, aligned True": lambda *x: defined.roi_align(*x, (3, 4), 0.5, 0, "avg", True),
    "roi_align, avg, 2 samples, aligned True": lambda *x: defined.roi_align(*x, (3, 4), 0.5, 2, "avg", True),
    "roi_align, avg, 0 samples, aligned False": lambda *x: defined.roi_align(*x, (3, 4), 0.5, 0, "avg", False),
    "roi_align, max, 2 samples, aligned False": lambda *x: defined.roi_align(*x, (3, 4), 0.5, 2, "max", False),
    "roi_pool": lambda *x: defined.roi_pool(*x, (3, 4), 0.5),
    "deform_conv2d, groups 1 and 1": lambda x, o, w: defined.deform_conv2d(x, o, None, w, None, 1, 1),
    "deform_conv2d, groups 2 and 2": lambda x, o, w: defined.deform_conv2d(x, o, None, w, None, 2, 2),
    "modulated_deform_conv2d, groups 1 and 1": lambda *x: defined.deform_conv2d(*x, 1, 1),
    "modulated_deform_conv2d, groups 2 and 2": lambda *x: defined.deform_conv2d(*x, 2, 2),
    "multi-scale deformable attention": defined.deformable_attention,
    "sigmoid_focal_loss": lambda *x: defined.sigmoid_focal_loss(*x, 2.0, 0.25),
    "softmax_focal_loss": lambda *x: defined.softmax_focal_loss(*x, 2.0, 0.25),
    "carafe": lambda *x: defined.carafe(*x, 5, 2, 2),
    "carafe_naive": lambda *x: defined.carafe(*x, 5, 2, 2),
    "masked_conv2d": defined.masked_conv2d,
    "psa_mask, collect": lambda x: defined.psa_mask(x, "collect", (5, 7)),
    "psa_mask, distribute": lambda x: defined.psa_mask(x, "distribute", (5, 7)),
}
DIFFERENTIABLE = [name for name, case in proof.CASES.items() if case.differentiable]


@pytest.fixture(autouse=True)
def ours():
    with using(Extension()):
        yield


def test_every_compiled_operator_for_cpus_has_numbers():
    assert set(COMPILED) | GPU_ONLY == set(proof.CASES) and not set(COMPILED) & GPU_ONLY


@pytest.mark.parametrize("name", COMPILED)
def test_numbers_of_compiled_operators(name):
    results = proof.run(proof.CASES[name], "cpu", torch.float32)
    expected = [torch.tensor(x, dtype=ours.dtype).view(shape) for (shape, x), ours in zip(COMPILED[name], results)]
    assert len(results) == len(COMPILED[name])
    assert proof.difference(results, expected) <= proof.TOLERANCE[torch.float32]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_definition(name):
    inputs = [x.detach() for x in proof.CASES[name].make()]
    ours = proof.CASES[name].call(mmcv.ops, *inputs)
    torch.testing.assert_close(ours, DEFINITIONS[name](*inputs), rtol=1e-10, atol=1e-10)


def test_max_of_as_many_samples_as_pixels():
    # Without a number of samples, mmcv's compiled maximum has -10000 for regions without area, which are zero here.
    x, rois = proof.CASES["roi_pool"].make()
    x, rois = x.detach()[:, :2, :7, :8].requires_grad_(), rois[4:]
    for aligned in (True, False):
        ours = mmcv.ops.roi_align(x, rois, (3, 4), 0.25, 0, "max", aligned)
        expected = defined.roi_align(x.detach(), rois, (3, 4), 0.25, 0, "max", aligned)
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(lambda x: mmcv.ops.roi_align(x, rois, (3, 4), 0.25, 0, "max"), (x,))


def test_nms_definition():
    boxes, scores = proof.CASES["nms"].make()
    for offset in (0, 1):
        assert mmcv.ops.nms(boxes, scores, 0.4, offset)[1].tolist() == defined.nms(boxes, scores, 0.4, offset)
    kept = defined.nms(boxes, scores, 0.3)
    groups = mmcv.ops.nms_match(torch.cat([boxes, scores[:, None]], dim=1), 0.3)
    assert [int(group[0]) for group in groups] == kept
    assert sorted(torch.cat(groups).tolist()) == list(range(len(boxes)))
    for group in groups:
        assert all(defined.overlap(boxes[group[0]], boxes[i]) >= 0.3 for i in group[1:].tolist())


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_definition(method):
    boxes, scores = proof.CASES["nms"].make()
    dets, kept = mmcv.ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method)
    expected = defined.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method)
    assert kept.tolist() == list(expected)
    torch.testing.assert_close(dets[:, 4], torch.tensor(list(expected.values()), dtype=torch.float64))
    assert torch.equal(dets[:, :4], boxes[kept])


def test_nms_does_not_drop_at_the_threshold():
    # In float32 these overlap by 0.3, rounded: not by more.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 3.0, 1.0]])
    for dtype in (torch.float32, torch.float64):
        assert len(mmcv.ops.nms(boxes.to(dtype), torch.tensor([0.9, 0.8], dtype=dtype), 0.3)[1]) == 2
    assert [len(group) for group in mmcv.ops.nms_match(torch.tensor([[*b, 0.5] for b in boxes.tolist()]), 0.3)] == [2]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name):
    case = proof.CASES[name]
    assert torch.autograd.gradcheck(lambda *x: case.call(mmcv.ops, *x), case.make(), nondet_tol=1e-12)


def test_gradients_of_the_naive_carafe():  # whose backward pass mmcv itself refuses on a CPU
    x, masks = (t.detach() for t in proof.CASES["carafe"].make())
    grad = torch.randn(2, 4, 8, 10, dtype=torch.float64)
    naive, fast = ([torch.zeros_like(x), torch.zeros_like(masks)] for _ in range(2))
    Extension().carafe_naive_backward(grad, x, masks, *naive, kernel_size=5, group_size=2, scale_factor=2)
    buffers = [torch.zeros(0)] * 4
    Extension().carafe_backward(grad, x, masks, *buffers, *fast, kernel_size=5, group_size=2, scale_factor=2)
    assert all(map(torch.equal, naive, fast)) and all(part.abs().sum() > 0 for part in naive)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(set(proof.CASES) - {"nms, by class"}))  # there mmcv itself shifts boxes
def test_low_precision(name, dtype):
    case = proof.CASES[name]
    inputs = case.make(dtype=dtype)
    results = case.results(*inputs)
    assert all(x.dtype in (dtype, torch.long) for x in results)
    # The same rounded inputs in double precision: what is left is the rounding of results.
    inputs = tuple(x.detach().double() if x.is_floating_point() else x for x in inputs)
    exact = case.results(*(x.requires_grad_(i in case.differentiable) for i, x in enumerate(inputs)))
    assert proof.difference(results, [x.to(y.dtype) for x, y in zip(exact, results)]) <= 3 * proof.TOLERANCE[dtype]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_any_memory_format(name):
    # mmcv's compiled RoIAlign for CPUs reads maps in channels_last as if they were contiguous.
    case = proof.CASES[name]
    inputs = [x.detach() for x in case.make()]
    expected = case.results(*(x.requires_grad_(i in case.differentiable) for i, x in enumerate(inputs)))
    for change in (
        lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
        lambda x: torch.stack([x, x], dim=-1)[..., 0],
        lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    ):
        changed = [change(x.detach()) for x in inputs]
        results = case.results(*(x.requires_grad_(i in case.differentiable) for i, x in enumerate(changed)))
        assert proof.difference(results, expected) < 1e-12


def test_no_boxes():
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for kept in (mmcv.ops.nms(boxes, scores, 0.5), mmcv.ops.soft_nms(boxes, scores)):
        assert kept[0].shape == (0, 5) and kept[1].shape == (0,) and kept[1].dtype == torch.long
    assert mmcv.ops.nms_match(torch.zeros(0, 5), 0.5) == []
    assert mmcv.ops.bbox_overlaps(boxes, torch.rand(3, 4)).shape == (0, 3)
    assert mmcv.ops.batched_nms(boxes, scores, torch.zeros(0, dtype=torch.long), None)[0].shape == (0, 5)


@pytest.mark.parametrize("mode", ["avg", "max", "pool"])
def test_no_regions(mode):
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    rois = torch.zeros(0, 5)
    out = mmcv.ops.roi_pool(x, rois, 7) if mode == "pool" else mmcv.ops.roi_align(x, rois, 7, 1.0, 0, mode, True)
    assert out.shape == (0, 3, 7, 7)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert not grad.any()


def test_no_queries_and_no_targets():
    value, shapes, starts, at, weights = (x.detach() for x in proof.CASES["multi-scale deformable attention"].make())
    attend = mmcv.ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply
    value.requires_grad_()
    out = attend(value, shapes, starts, at[:, :0], weights[:, :0], 64)
    assert out.shape == (2, 0, 8)
    assert not torch.autograd.grad(out.sum(), value)[0].any()
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = mmcv.ops.sigmoid_focal_loss(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "none")
    assert loss.shape == torch.autograd.grad(loss.sum(), logits)[0].shape == (0, 5)
    masks = torch.zeros(0, 50, 4, 4, requires_grad=True)
    assert mmcv.ops.carafe(torch.zeros(0, 4, 2, 2), masks, 5, 2, 2).shape == (0, 4, 4, 4)


def test_focal_loss_of_sure_logits():
    # float32's sigmoid is 1 from 17 up, so that 1 - p has no logarithm.
    logits = torch.tensor([[30.0, -30.0], [-200.0, 200.0]], requires_grad=True)
    loss = mmcv.ops.sigmoid_focal_loss(logits, torch.tensor([1, 2]), 2.0, 0.25, None, "none")
    torch.testing.assert_close(loss, torch.tensor([[22.5, 7.5], [0.0, 150.0]]))
    assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


def test_softmax_focal_loss_ignores_negative_targets():
    logits, target, _ = (x.detach() for x in proof.CASES["softmax_focal_loss"].make())
    logits.requires_grad_()
    ignored = target.clone()
    ignored[::2] = -1
    loss = mmcv.ops.softmax_focal_loss(logits, ignored, 2.0, 0.25, None, "sum")
    (grad,) = torch.autograd.grad(loss, logits)
    alone = mmcv.ops.softmax_focal_loss(logits[1::2], target[1::2], 2.0, 0.25, None, "sum")
    torch.testing.assert_close(loss, alone)
    assert not grad[::2].any() and grad[1::2].abs().sum() > 0


def test_frozen_inputs_of_deformable_convolution():
    x, offset, weight = (t.detach() for t in proof.CASES["deform_conv2d, groups 1 and 1"].make())
    weight.requires_grad_()
    out = mmcv.ops.deform_conv2d(x, offset, weight, 2, 2, 2)
    first = torch.autograd.grad(out.sum(), weight, retain_graph=True)[0]
    x.requires_grad_()
    out = mmcv.ops.deform_conv2d(x, offset, weight, 2, 2, 2)
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(out.sum(), (x, weight), retain_graph=True)[1], first)


def test_layers_of_mmcv_learn():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 12, 10)
    layers = [
        mmcv.ops.DeformConv2dPack(8, 8, 3, padding=1, deform_groups=2),
        mmcv.ops.ModulatedDeformConv2dPack(8, 8, 3, padding=1, groups=2),
        mmcv.ops.CARAFEPack(8, 2, up_group=2),
        mmcv.ops.SAConv2d(8, 8, 3, padding=1, use_deform=True),
        mmcv.ops.CrissCrossAttention(8),
    ]
    for layer in layers:
        layer(x).square().sum().backward()
        learning = {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.isfinite().all()}
        assert learning >= {name for name, _ in layer.named_parameters()} - {"bias"}  # SAConv2d does not use its own


def test_operators_that_are_not_provided():
    with pytest.raises(
        OperatorsError, match=r"operator nms_rotated is not provided by backbones: build mmcv .*MMCV_WI"
    ):
        mmcv.ops.nms_rotated(torch.rand(3, 5), torch.rand(3), 0.5)
    with pytest.raises(OperatorsError, match="three_nn_forward is not provided"):
        mmcv.ops.three_nn(torch.rand(1, 4, 3), torch.rand(1, 5, 3))


def test_comparing_needs_compiled_operators(capsys):
    assert proof.main(["--compiled"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: mmcv has no compiled operators that work: build them by `MMCV_WITH_OPS=1 pip")


def test_timing_needs_compiled_operators(capsys):
    assert benchmark.main(["ops", "dense", "--device", "cpu"]) == 2
    assert "error: mmcv has no compiled operators to compare with: build them by" in capsys.readouterr().err


def test_a_wrong_operator_is_found(monkeypatch, capsys):
    monkeypatch.setattr(proof, "CASES", {name: proof.CASES[name] for name in ("nms", "carafe")})
    assert proof.main([]) == 0 and "WRONG" not in capsys.readouterr().out
    real = Extension.__init__

    def wrong(self):
        real(self)
        forward = self.carafe_forward
        self.carafe_forward = lambda x, *args, **kw: forward(x * (1.01 if x.dtype == torch.float32 else 1), *args, **kw)

    monkeypatch.setattr(Extension, "__init__", wrong)
    assert proof.main([]) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in out if line.endswith("WRONG")] == ["carafe"]
