"""Measures a classifier on labelled images: accuracy, loss, per-class figures, confusion, ReaL labels and speed.

Validation in a training run and ``backbones-validate`` both measure with :func:`evaluate`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import RealLabelsImagenet
from torch import Tensor, nn

from backbones.train.data.datasets import DataError
from backbones.utils.failures import is_out_of_memory


class Forward:
    """Runs a model on batches of any size, in pieces when one does not fit into memory.

    When memory runs out, the piece is halved and the batch goes on; later batches keep the smaller piece. In eval mode
    samples do not see each other, so the pieces do not change the outputs.

    Args:
        model: In eval mode, on `device`.
        device: Where it runs.
        amp_dtype: Autocast to this type, or None for the model's own.
        channels_last: Give images in channels_last memory format.
        tta: Average the probabilities of an image and its mirror image.
        halve: False where other processes take part in the model's forward pass, so that the error is raised.
        say: Called with a sentence when the piece was halved.

    Attributes:
        piece: The largest number of images run at once, or None while every batch fitted.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        amp_dtype: torch.dtype | None = None,
        channels_last: bool = False,
        tta: bool = False,
        halve: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self.model, self.device, self.amp_dtype = model, device, amp_dtype
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.tta, self.halve, self.say = tta, halve, say
        self.piece: int | None = None

    def _logits(self, images: Tensor) -> Tensor:
        output = self.model(images)
        return (output[0] if isinstance(output, (tuple, list)) else output).float()

    def _run(self, images: Tensor) -> Tensor:
        images = images.to(self.device, self.dtype, non_blocking=True)
        # Each image may come in several crops: (B, crops, C, H, W).
        crops = images.flatten(0, -4).contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            views = [self._logits(crops)]
            if self.tta:
                views.append(self._logits(crops.flip(-1)))
        views = [view for logits in views for view in logits.view(len(images), -1, logits.shape[-1]).unbind(1)]
        if len(views) == 1:
            return views[0]
        # The logarithm of the mean probability: softmax of it gives that mean back.
        return torch.stack([view.log_softmax(-1) for view in views]).logsumexp(0) - math.log(len(views))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, classes), float32 on the CPU, of images (B, C, H, W).

        Raises:
            RuntimeError: When even a single image does not fit into memory.
        """
        out, start = [], 0
        while start < len(images):
            size = self.piece or len(images)
            try:
                # The copy to the CPU also waits for the device, so that times are those of the work.
                out.append(self._run(images[start : start + size]).cpu())
                start += size
                continue
            except (RuntimeError, MemoryError) as error:
                size = min(size, len(images) - start)
                if not self.halve or not is_out_of_memory(error) or size <= 1:
                    raise
            # Outside the handler, whose traceback would keep the activations alive.
            self.piece = size // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.say(f"Out of memory with {size} images at once: going on with {self.piece}.")
        return torch.cat(out)


@dataclass
class Evaluation:
    """What :func:`evaluate` measured.

    Attributes:
        labels, predictions: (N,) class of every readable image of this process and the most probable one.
        num_classes: Number of classes.
        images: Readable images of all processes.
        loss: Mean cross-entropy, in nats.
        top1, top5: Accuracy in percent; `top5` is None with fewer than five classes.
        real_top1, real_top5: Accuracy in percent against ImageNet-ReaL labels, None when these were not asked for.
        not_finite: Images with an output that is NaN or infinite, of all processes.
        unreadable: Images left out because they could not be read.
        images_per_second: Speed of the forward pass with its copies, without reading images. Where there are enough
            batches, the first and those of another size are left out: they pay for warm-up and compilation.
        seconds: Time of everything, reading included.
        piece: Images run at once after running out of memory, or None.
    """

    labels: Tensor
    predictions: Tensor
    num_classes: int
    images: int
    loss: float
    top1: float
    top5: float | None
    real_top1: float | None
    real_top5: float | None
    not_finite: int
    unreadable: int
    images_per_second: float
    seconds: float
    piece: int | None = None

    def confusion(self) -> Tensor:
        """(classes, classes) counts: rows are true classes, columns predicted ones."""
        from sklearn.metrics import confusion_matrix

        return torch.from_numpy(confusion_matrix(self.labels, self.predictions, labels=range(self.num_classes)))

    def per_class(self, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """Precision, recall, F1 (in percent) and support of every class; a ratio of nothing to nothing is 0."""
        from sklearn.metrics import precision_recall_fscore_support

        figures = precision_recall_fscore_support(
            self.labels, self.predictions, labels=range(self.num_classes), zero_division=0
        )
        predicted = torch.bincount(self.predictions, minlength=self.num_classes).tolist()
        rows = []
        for i, (*shares, support) in enumerate(zip(*figures)):
            percent = {key: round(100 * float(x), 4) for key, x in zip(("precision", "recall", "f1"), shares)}
            row = {"index": i, "class": class_names[i], **percent, "support": int(support), "predicted": predicted[i]}
            rows.append(row)
        return rows


def evaluate(
    forward: Forward,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    outputs: Tensor | None = None,
    real: RealLabelsImagenet | None = None,
    progress: Callable[[int], None] | None = None,
    sum_up: Callable[[list[float]], list[float]] = list,
) -> Evaluation:
    """Runs over all batches.

    Args:
        forward: The model.
        loader: Batches of images (B, C, H, W) and labels (B,); images labelled -1 are left out.
        outputs: Output index of each class of the data, see :func:`~backbones.train.evaluation.labels.match_classes`.
        real: From :func:`~backbones.train.evaluation.labels.open_real_labels`; the loader must then go through its
            files in order.
        progress: Called with the number of images of each batch done.
        sum_up: Sums of numbers over all processes, where each of several evaluates a part of the images.

    Raises:
        DataError: When no image can be read or a label has no output.
    """
    labels, predictions = [torch.empty(0, dtype=torch.long)], [torch.empty(0, dtype=torch.long)]
    times: list[tuple[int, float]] = []
    loss = 0.0
    top5_right = not_finite = unreadable = num_classes = 0
    begin = time.perf_counter()
    for images, target in loader:
        start = time.perf_counter()
        logits = forward(images)
        times.append((len(images), time.perf_counter() - start))
        readable = target >= 0
        if real is not None:
            _add_real(real, logits, readable)
        if outputs is not None:
            logits = logits.index_select(1, outputs)
        logits, kept = logits[readable], target[readable]
        num_classes = logits.shape[1]
        if len(kept) and int(kept.max()) >= num_classes:
            raise DataError(f"The data has a label {int(kept.max())} and the model only {num_classes} outputs.")
        unreadable += len(target) - len(kept)
        not_finite += int((~logits.isfinite()).any(1).sum())
        loss += F.cross_entropy(logits.double(), kept, reduction="sum").item()
        ranked = logits.topk(min(5, num_classes), dim=1).indices
        top5_right += int((ranked == kept[:, None]).any(1).sum())
        labels.append(kept)
        predictions.append(ranked[:, 0])
        if progress is not None:
            progress(len(images))
    seconds = time.perf_counter() - begin
    own_labels, own_predictions = torch.cat(labels), torch.cat(predictions)
    top1_right = int((own_labels == own_predictions).sum())
    count, loss, top1_right, top5_right, not_finite = sum_up(
        [len(own_labels), loss, top1_right, top5_right, not_finite]
    )
    if not count:
        raise DataError(f"There is no readable image to evaluate on ({unreadable} could not be read).")
    timed = [pair for pair in times[1:] if pair[0] == times[0][0]] or times
    return Evaluation(
        labels=own_labels,
        predictions=own_predictions,
        num_classes=num_classes,
        images=int(count),
        loss=loss / count,
        top1=100 * top1_right / count,
        top5=100 * top5_right / count if num_classes >= 5 else None,
        real_top1=real.get_accuracy(1) if real is not None else None,
        real_top5=real.get_accuracy(5) if real is not None else None,
        not_finite=int(not_finite),
        unreadable=unreadable,
        images_per_second=sum(size for size, _ in timed) / max(sum(elapsed for _, elapsed in timed), 1e-9),
        seconds=seconds,
        piece=forward.piece,
    )


def not_finite_sentence(count: int, images: int) -> str:
    """The sentence for outputs that are NaN or infinite."""
    return (
        f"The model's outputs are NaN or infinite for {count} of {images} images, so these results mean nothing: check "
        "its weights, or compute in float32 (without --amp and --model-dtype)."
    )


def _add_real(real: RealLabelsImagenet, logits: Tensor, readable: Tensor) -> None:
    """Counts a batch for ReaL; unreadable images only move its position on."""
    for row, good in zip(logits, readable.tolist()):
        if good:
            real.add_result(row[None])
        else:
            real.sample_idx += 1
