"""Measures a classifier on labelled images: accuracy, loss, per-class figures, confusion, ReaL labels and speed."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn import metrics
from timm.data import RealLabelsImagenet, create_transform
from torch import Tensor, nn
from torchvision import transforms

from backbones.train.data.datasets import DataError
from backbones.utils.failures import is_out_of_memory
from backbones.utils.files import replacing

__all__ = [
    "Evaluation",
    "Forward",
    "evaluate",
    "evaluation_transform",
    "match_classes",
    "open_real_labels",
    "read_valid_labels",
    "write_json",
    "write_text",
]


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes a text file aside and renames it into place, making its folder."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")
    return Path(path)


def write_json(path: str | os.PathLike, content: Any) -> Path:
    """Writes JSON, see :func:`write_text`."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


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
        say: Callable[[str], None] = print,
    ) -> None:
        self.model, self.device, self.amp_dtype = model, device, amp_dtype
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.tta, self.say = tta, say
        self.piece: int | None = None

    def _run(self, images: Tensor) -> Tensor:
        images = images.to(self.device, self.dtype, non_blocking=True)
        # Each image may come in several crops: (B, crops, C, H, W).
        crops = images.flatten(0, -4).contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            views = [self.model(crops).float()]
            if self.tta:
                views.append(self.model(crops.flip(-1)).float())
        views = [view for logits in views for view in logits.view(len(images), -1, logits.shape[-1]).unbind(1)]
        if len(views) == 1:
            return views[0]
        # The logarithm of the mean probability: softmax of it gives that mean back.
        return torch.stack([view.log_softmax(-1) for view in views]).logsumexp(0) - math.log(len(views))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, classes), float32 on the CPU, of images (B, C, H, W).

        Raises:
            RuntimeError: When even a single image does not fit into memory.
        """
        out, start = [], 0
        while start < len(images):
            size = self.piece or len(images)
            failed = False
            try:
                # The copy to the CPU also waits for the device, so that times are those of the work.
                out.append(self._run(images[start : start + size]).cpu())
            except (RuntimeError, MemoryError) as error:
                size = min(size, len(images) - start)
                if not is_out_of_memory(error) or size <= 1:
                    raise
                failed = True
            if failed:  # outside the handler, whose traceback would keep the activations alive
                self.piece = size // 2
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                self.say(f"Out of memory with {size} images at once: going on with {self.piece}.")
                continue
            start += size
        return torch.cat(out)


def evaluation_transform(config: Mapping[str, Any], crops: int = 1) -> Callable[[Any], Tensor]:
    """timm's preprocessing of a PIL image: (C, H, W), or (crops, C, H, W) with several crops.

    Args:
        config: As :func:`timm.data.resolve_data_config` gives it.
        crops: 1 for the centre, 5 for the corners and the centre, 10 for these and their mirror images.
    """
    whole = create_transform(**config, is_training=False)
    return whole if crops == 1 else SeveralCrops(whole.transforms, config["input_size"][-2:], mirrored=crops == 10)


class SeveralCrops:
    """Five crops of an image, the corners and the centre, in place of the one that timm's preprocessing cuts.

    Args:
        stages: That preprocessing, which cuts the centre at one of its stages.
        size: Height and width of a crop.
        mirrored: Add the mirror images.
    """

    def __init__(self, stages: Sequence[Callable], size: Sequence[int], mirrored: bool) -> None:
        place = next(i for i, stage in enumerate(stages) if isinstance(stage, transforms.CenterCrop))
        self.before, self.after = transforms.Compose(stages[:place]), transforms.Compose(stages[place + 1 :])
        self.size, self.cut = size, (transforms.TenCrop if mirrored else transforms.FiveCrop)(size)

    def __call__(self, image: Any) -> Tensor:
        """(crops, C, H, W) of a PIL image; one smaller than a crop is padded, as a centre crop pads it."""
        image = self.before(image)
        least = [max(pair) for pair in zip(self.size, reversed(image.size))]
        return torch.stack([self.after(crop) for crop in self.cut(transforms.CenterCrop(least)(image))])


def read_valid_labels(path: str | os.PathLike, num_outputs: int, num_classes: int) -> Tensor:
    """Which output stands for each class of the data, from a file of one index a line, as timm has it.

    Args:
        path: The file.
        num_outputs: Outputs of the model.
        num_classes: Classes of the data; 0 when it does not say.

    Raises:
        DataError: When the file cannot be read, or does not name one output for each class.
    """
    try:
        labels = [int(line) for line in Path(path).read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read --valid-labels {path} as one index a line: {error}") from error
    if not labels or not all(0 <= label < num_outputs for label in labels) or len(set(labels)) != len(labels):
        raise DataError(f"--valid-labels {path} must name outputs 0 to {num_outputs - 1} of the model, each once.")
    if num_classes not in (0, len(labels)):
        raise DataError(f"--valid-labels {path} names {len(labels)} outputs and the data has {num_classes} classes.")
    return torch.tensor(labels)


@dataclass
class Evaluation:
    """What :func:`evaluate` measured.

    Attributes:
        labels, predictions: (N,) class of every readable image and the most probable one.
        num_classes: Number of classes.
        loss: Mean cross-entropy, in nats.
        top1, top5: Accuracy in percent; `top5` is None with fewer than five classes.
        real_top1, real_top5: Accuracy in percent against ImageNet-ReaL labels, None when these were not asked for.
        unreadable: Images left out because they could not be read.
        images_per_second: Speed of the forward pass with its copies, without reading images. Where there are enough
            batches, the first and those of another size are left out: they pay for warm-up and compilation.
        seconds: Time of everything, reading included.
        piece: Images run at once after running out of memory, or None.
    """

    labels: Tensor
    predictions: Tensor
    num_classes: int
    loss: float
    top1: float
    top5: float | None
    real_top1: float | None
    real_top5: float | None
    unreadable: int
    images_per_second: float
    seconds: float
    piece: int | None = None

    @property
    def images(self) -> int:
        """Number of images that count."""
        return len(self.labels)

    def confusion(self) -> Tensor:
        """(classes, classes) counts: rows are true classes, columns predicted ones."""
        return torch.from_numpy(metrics.confusion_matrix(self.labels, self.predictions, labels=range(self.num_classes)))

    def per_class(self, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """Precision, recall, F1 (in percent) and support of every class; a ratio of nothing to nothing is 0."""
        precision, recall, f1, support = metrics.precision_recall_fscore_support(
            self.labels, self.predictions, labels=range(self.num_classes), zero_division=0
        )
        predicted = torch.bincount(self.predictions, minlength=self.num_classes).tolist()
        return [
            {
                "index": i,
                "class": class_names[i],
                "precision": round(100 * float(precision[i]), 4),
                "recall": round(100 * float(recall[i]), 4),
                "f1": round(100 * float(f1[i]), 4),
                "support": int(support[i]),
                "predicted": predicted[i],
            }
            for i in range(self.num_classes)
        ]


def match_classes(
    data_names: Sequence[str], model_names: Sequence[str] | None, num_outputs: int, data: str = "the data"
) -> tuple[Tensor | None, str]:
    """Which output of the model stands for each class of the data.

    Args:
        data_names: The data's classes by label; empty when the data does not name them.
        model_names: The model's classes by output, or None.
        num_outputs: Number of outputs.
        data: The data's name, for messages.

    Returns:
        (classes of the data,) output indices, or None when label and output agree already; and a sentence on what was
        done, empty when nothing was.

    Raises:
        DataError: When the classes do not fit the outputs.
    """
    if not data_names or (model_names is not None and list(data_names) == list(model_names)):
        return None, ""
    if model_names is not None:
        where = {name: index for index, name in enumerate(model_names)}
        if len(where) == len(model_names) and all(name in where for name in data_names):
            what = "reordered" if len(data_names) == num_outputs else f"{len(data_names)} of {num_outputs} outputs used"
            return torch.tensor([where[name] for name in data_names]), f"classes matched by name: {what}"
    if len(data_names) == num_outputs:
        note = "" if model_names is None else "class names of model and data differ: labels taken by position"
        return None, note
    raise DataError(
        f"The model has {num_outputs} outputs and {data} has {len(data_names)} classes, and their names do not match: "
        "give data the model was trained for with --data, or a checkpoint that was trained on this data."
    )


def open_real_labels(path: str | os.PathLike, filenames: Sequence[str]) -> RealLabelsImagenet:
    """ImageNet-ReaL labels (Beyer et al., arXiv:2006.07159) for the images of the data, in its order.

    Args:
        path: The published JSON file: a list of label lists, the i-th for `ILSVRC2012_val_%08d.JPEG` of number i + 1.
        filenames: File of each image.

    Raises:
        DataError: When the file is not such a list, or the images are not those of the validation set.
    """
    try:
        labels = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"Cannot read the ReaL labels {path}: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(entry, list) for entry in labels):
        raise DataError(f"{path} is not a file of ReaL labels: it must hold a list of lists of class indices.")
    if len(labels) != len(filenames):
        raise DataError(
            f"{path} labels {len(labels)} images and the data has {len(filenames)}: give ImageNet's val set."
        )
    known = {f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(labels) + 1)}
    strange = next((name for name in filenames if os.path.basename(name) not in known), None)
    if strange is not None:
        raise DataError(f"ReaL labels go by names like ILSVRC2012_val_00000001.JPEG, but the data has {strange}.")
    return RealLabelsImagenet(list(filenames), real_json=str(path))


def evaluate(
    forward: Forward,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    outputs: Tensor | None = None,
    real: RealLabelsImagenet | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Runs over all batches.

    Args:
        forward: The model.
        loader: Batches of images (B, C, H, W) and labels (B,); images labelled -1 are left out.
        outputs: Output index of each class of the data, see :func:`match_classes`.
        real: From :func:`open_real_labels`; the loader must then go through its files in order.
        progress: Called with the number of images of each batch done.

    Raises:
        DataError: When no image can be read or a label has no output.
    """
    labels, predictions, loss_sum = [], [], 0.0
    top5_right = unreadable = num_classes = 0
    times: list[tuple[int, float]] = []
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
        unreadable += int((~readable).sum())
        loss_sum += F.cross_entropy(logits.double(), kept, reduction="sum").item()
        ranked = logits.topk(min(5, num_classes), dim=1).indices
        top5_right += int((ranked == kept[:, None]).any(1).sum())
        labels.append(kept)
        predictions.append(ranked[:, 0])
        if progress is not None:
            progress(len(images))
    if not sum(map(len, labels)):
        raise DataError(f"There is no readable image to evaluate on ({unreadable} could not be read).")
    seconds = time.perf_counter() - begin
    all_labels, all_predictions = torch.cat(labels), torch.cat(predictions)
    count = len(all_labels)
    timed = [pair for pair in times[1:] if pair[0] == times[0][0]] or times
    return Evaluation(
        labels=all_labels,
        predictions=all_predictions,
        num_classes=num_classes,
        loss=loss_sum / count,
        top1=100 * int((all_labels == all_predictions).sum()) / count,
        top5=100 * top5_right / count if num_classes >= 5 else None,
        real_top1=real.get_accuracy(1) if real is not None else None,
        real_top5=real.get_accuracy(5) if real is not None else None,
        unreadable=unreadable,
        images_per_second=sum(size for size, _ in timed) / max(sum(elapsed for _, elapsed in timed), 1e-9),
        seconds=seconds,
        piece=forward.piece,
    )


def _add_real(real: RealLabelsImagenet, logits: Tensor, readable: Tensor) -> None:
    """Counts a batch for ReaL; unreadable images only move its position on."""
    if bool(readable.all()):
        real.add_result(logits)
        return
    for row, good in zip(logits, readable.tolist()):
        if good:
            real.add_result(row[None])
        else:
            real.sample_idx += 1
