"""What is timed computes what it says."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from backbones.benchmark import ops
from backbones.benchmark.models import ModelSubject, Setting
from backbones.models import family_of

CPU = torch.device("cpu")
SMALL = Setting(size=(64, 96), batch=2)


def _subject(name: str = "nat_m", **changes) -> ModelSubject:
    return ModelSubject(name, dataclasses.replace(SMALL, **changes), CPU, dict(family_of(name).tiny))


def test_inference_leaves_the_model_as_it_was():
    subject = _subject()
    before = {key: value.clone() for key, value in subject.model.state_dict().items()}
    subject()
    assert not subject.model.training and subject.images.shape == (2, 3, 64, 96)
    assert all(torch.equal(value, before[key]) for key, value in subject.model.state_dict().items())


def test_training_trains():
    subject = _subject(task="training")
    before = {key: value.clone() for key, value in subject.model.named_parameters()}
    subject()
    assert any(not torch.equal(value, before[key]) for key, value in subject.model.named_parameters())
    assert all(subject.optimizer.state[p]["momentum_buffer"].any() for p in subject.model.parameters())
    assert all(parameter.grad is None for parameter in subject.model.parameters())


def test_kernels_are_merged_for_inference_only():
    def kernels(subject: ModelSubject) -> int:
        return sum(1 for name, _ in subject.model.named_parameters() if "conv" in name)

    merged, apart = _subject("overlock_xt"), _subject("overlock_xt", merged=False)
    assert kernels(merged) < kernels(apart) == kernels(_subject("overlock_xt", task="training"))
    with torch.inference_mode():
        torch.testing.assert_close(merged.model(merged.images), apart.model(apart.images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("task", ["inference", "training"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "amp_bfloat16"])
def test_precision_and_layout(task, precision):
    subject = _subject(task=task, precision=precision, channels_last=True)
    weights = next(subject.model.parameters())
    assert weights.dtype == (torch.bfloat16 if precision == "bfloat16" else torch.float32)
    assert subject.images.is_contiguous(memory_format=torch.channels_last)
    outputs = []
    subject.model.register_forward_hook(lambda module, args, output: outputs.append(output.dtype))
    subject()
    assert outputs == [torch.float32 if precision == "float32" else torch.bfloat16]


def test_timm_models_of_a_fixed_size():
    setting = Setting(size=(64, 64), batch=1)
    subject = ModelSubject("swin_tiny_patch4_window7_224", setting, CPU, {"depths": (1, 1, 1, 1), "window_size": 2})
    subject()
    macs, traffic = subject.costs()
    assert macs > 1e7 and traffic > 4 * subject.params


@pytest.mark.parametrize("dilation", [1, 2])
def test_unfold_attention_is_ours_away_from_the_border(dilation):
    case = ops.attention_case(20, 22, 2, 8, 3, dilation, 2)
    inputs = case.inputs(CPU, torch.float32)
    inside = (slice(None), slice(dilation, -dilation), slice(dilation, -dilation))
    torch.testing.assert_close(case.ours(*inputs)[inside], case.plain(*inputs)[inside])


def test_unfold_product_is_ours_away_from_the_border():
    case = ops.product_case(12, 14, 2, 8, 5, 2)
    inputs = case.inputs(CPU, torch.float32)
    inside = (..., slice(2, -2), slice(2, -2), slice(None))
    torch.testing.assert_close(case.ours(*inputs)[inside], case.plain(*inputs)[inside])


def test_gathered_attention_is_ours():
    case = ops.routing_case(56, 84, 2, 64, 4, batch=2)
    inputs = case.inputs(CPU, torch.float32)
    torch.testing.assert_close(case.ours(*inputs), case.plain(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backward", [False, True])
def test_both_forms_get_the_same_inputs(backward):
    case = ops.product_case(6, 6, 1, 4, 3, 1)
    ours, plain = ops.subjects(case, CPU, torch.float32, backward)
    assert all(torch.equal(a, b) for a, b in zip(ours.inputs, plain.inputs))
    assert all(x.requires_grad == backward for x in ours.inputs)
    ours(), plain()
    assert all(x.grad is None for x in ours.inputs)


def test_flops_are_of_the_window():
    assert ops.attention_case(10, 12, 2, 8, 3, 1, 1).flops == 2 * 2 * 10 * 12 * 16 * 9
    assert ops.product_case(10, 12, 2, 8, 3, 1).flops == 2 * 10 * 12 * 16 * 9
