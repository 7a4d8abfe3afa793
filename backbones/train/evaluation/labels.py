"""Which output of a model stands for which class of the data, and the labels of ImageNet-ReaL."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from timm.data import RealLabelsImagenet
from torch import Tensor

from backbones.train.data.datasets import DataError


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
