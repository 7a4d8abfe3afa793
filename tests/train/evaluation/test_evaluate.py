"""The figures of an evaluation, and how a model is run for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from sklearn import metrics
from torch import nn

from backbones.train.data.datasets import DataError
from backbones.train.evaluation.evaluate import Forward, evaluate
from backbones.utils.failures import is_out_of_memory

CPU = torch.device("cpu")


class Scores(nn.Module):
    """Takes its (B, classes, 1, 1) input for the logits."""

    def forward(self, x):
        return x.flatten(1)


class Hungry(Scores):
    """Runs out of memory above `limit` images, the way torch says so."""

    def __init__(self, limit: int, error: Exception | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        self.seen: list[int] = []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.limit:
            raise self.error
        return super().forward(x)


def scores(count=200, classes=8, seed=0):
    """Logits as images and labels that agree with them in part, in batches of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes - 1, (count,), generator=generator)  # the last class never occurs
    logits = torch.randn(count, classes, generator=generator) + 1.5 * nn.functional.one_hot(labels, classes)
    return logits, labels


def batches(logits, labels, size=64):
    return list(zip(logits[:, :, None, None].split(size), labels.split(size)))


def forward(model=None, **kwargs):
    return Forward(model or Scores(), CPU, **kwargs)


def test_figures_equal_scikit_learn():
    logits, labels = scores()
    result = evaluate(forward(), batches(logits, labels))
    predicted = logits.argmax(1)
    names = [str(i) for i in range(8)]
    assert result.images == 200
    assert result.top1 == pytest.approx(100 * metrics.accuracy_score(labels, predicted))
    assert result.top5 == pytest.approx(100 * metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(8)))
    probabilities = logits.double().softmax(1)
    assert result.loss == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(8)), rel=1e-9)
    assert np.array_equal(result.confusion(), metrics.confusion_matrix(labels, predicted, labels=range(8)))
    expected = metrics.precision_recall_fscore_support(labels, predicted, labels=range(8), zero_division=0)
    rows = result.per_class(names)
    for values, key in zip(expected, ("precision", "recall", "f1", "support")):
        scale = 1 if key == "support" else 100
        assert [row[key] for row in rows] == pytest.approx((scale * values).tolist(), abs=1e-4)
    assert rows[7]["support"] == 0
    assert result.images_per_second > 0


def test_processes_sum_up_to_the_whole():
    """Each of two processes sees every other image and padding; together they have the figures of one."""
    logits, labels = scores(count=61)
    whole = evaluate(forward(), batches(logits, labels))
    shares = [(logits[0::2], labels[0::2]), (logits[1::2], labels[1::2])]
    shares[1] = (torch.cat([shares[1][0], logits[:1]]), torch.cat([shares[1][1], torch.tensor([-1])]))
    sums = []
    for share in shares:
        evaluate(forward(), batches(*share, 8), sum_up=lambda values: sums.append(values) or values)
    total = [sum(pair) for pair in zip(*sums)]
    for share in shares:
        part = evaluate(forward(), batches(*share, 8), sum_up=lambda values: total)
        assert (part.images, part.top1, part.top5) == (61, whole.top1, whole.top5)
        assert part.loss == pytest.approx(whole.loss, rel=1e-12)


def test_outputs_that_are_not_finite_are_counted():
    logits, labels = scores(count=20)
    logits[[3, 9]] = torch.tensor([[float("nan")], [float("inf")]])
    result = evaluate(forward(), batches(logits, labels, 8))
    assert result.not_finite == 2 and math.isnan(result.loss) and result.images == 20


def test_figures_do_not_depend_on_batches():
    logits, labels = scores()
    a, b = (evaluate(forward(), batches(logits, labels, size)) for size in (7, 200))
    assert (a.top1, a.top5, a.loss) == pytest.approx((b.top1, b.top5, b.loss), rel=1e-12)


def test_top5_needs_five_classes():
    logits, labels = scores(classes=4)
    assert evaluate(forward(), batches(logits, labels)).top5 is None


def test_unreadable_images_are_left_out():
    logits, labels = scores(count=50)
    holes = labels.clone()
    holes[[0, 17, 49]] = -1
    kept = holes >= 0
    result = evaluate(forward(), batches(logits, holes, 16))
    without = evaluate(forward(), batches(logits[kept], labels[kept], 16))
    assert (result.unreadable, result.images) == (3, 47)
    assert (result.top1, result.loss) == pytest.approx((without.top1, without.loss), rel=1e-12)
    with pytest.raises(DataError, match="no readable image"):
        evaluate(forward(), batches(logits, torch.full((50,), -1)))


def test_a_label_beyond_the_outputs_is_an_error():
    logits, labels = scores(count=4)
    labels[2] = 8
    with pytest.raises(DataError, match="label 8"):
        evaluate(forward(), batches(logits, labels))


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: tried 9 bytes"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error):
    logits, labels = scores(count=40)
    said = []
    model = Hungry(5, error)
    result = evaluate(forward(model, say=said.append), batches(logits, labels, 16))
    whole = evaluate(forward(), batches(logits, labels, 16))
    assert torch.equal(result.predictions, whole.predictions)
    assert result.loss == pytest.approx(whole.loss, rel=1e-12)
    assert result.piece == 4
    assert len(said) == 2
    assert "16 images" in said[0]
    assert "going on with 8" in said[0]
    assert max(model.seen[3:]) <= 4  # later batches keep what fitted


def test_out_of_memory_with_one_image_and_other_errors_pass_through():
    images = torch.zeros(4, 3, 1, 1)
    with pytest.raises(torch.OutOfMemoryError):
        forward(Hungry(0), say=lambda _: None)(images)
    broken = Hungry(0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes"):
        forward(broken)(images)
    assert broken.seen == [4]  # not tried again in pieces
    assert not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(torch.OutOfMemoryError):  # other processes wait for the same batch
        forward(Hungry(2), halve=False)(images)


def test_tta_averages_the_probabilities_of_both_sides():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=6).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        mean = (model(images).softmax(1) + model(images.flip(-1)).softmax(1)) / 2
    torch.testing.assert_close(forward(model, tta=True)(images).softmax(1), mean)
    assert not torch.allclose(forward(model)(images).softmax(1), mean)


def test_mixed_precision_and_channels_last_stay_close():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=6).eval()
    images = torch.randn(3, 3, 32, 32)
    plain = forward(model)(images)
    half = forward(model, amp_dtype=torch.bfloat16)(images)
    assert half.dtype == torch.float32
    assert not torch.equal(half, plain)
    torch.testing.assert_close(half, plain, rtol=0.1, atol=0.05)
    torch.testing.assert_close(forward(model, channels_last=True)(images), plain, rtol=1e-4, atol=1e-4)


def test_a_subset_of_classes_is_judged_among_itself():
    logits, labels = scores()
    outputs = torch.tensor([6, 2, 0])
    pick = torch.isin(labels, outputs)
    own = torch.tensor([outputs.tolist().index(i) for i in labels[pick].tolist()])
    result = evaluate(forward(), batches(logits[pick], own), outputs=outputs)
    expected = logits[pick][:, outputs].argmax(1)
    assert result.num_classes == 3
    assert torch.equal(result.predictions, expected)
