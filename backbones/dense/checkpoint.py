"""Checkpoints of detectors and segmentors: fetched into the store, read without executing anything, loaded whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_torch_safe_globals
from torch import nn

from backbones.checkpoints import Store, WeightsError, read_checkpoint
from backbones.checkpoints.download import download
from backbones.checkpoints.store import storing
from backbones.dense.errors import some

_SHOWN = 5  # keys in a message


def local_file(source: str) -> Path:
    """The file that a path or address names; what an address names is kept in the store of weights."""
    if urlsplit(source).scheme not in ("http", "https"):
        return Path(source).expanduser()
    folder = Store().folder / "dense"
    # Files of different addresses may have the same name.
    address = hashlib.sha256(source.encode()).hexdigest()[:8]
    path = folder / f"{address}-{Path(urlsplit(source).path).name}"
    if not path.is_file():
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.part")
            download(source, part)
            part.replace(path)
    return path


def _statistic(owner: Any, name: str) -> Any:
    """What `getattr` may do while a checkpoint is read: find the statistics of mmengine's log buffers."""
    if owner is not HistoryBuffer or name.startswith("_"):
        raise WeightsError(f"The checkpoint asks for {name!r} of {owner!r}, which is not executed.")
    return getattr(owner, name)


def read(source: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of mmengine, a file or an address; nothing in it is executed.

    Raises:
        WeightsError: It cannot be had, or holds other objects than weights and mmengine's log buffers.
    """
    harmless = [item for item in get_torch_safe_globals() if item is not getattr]
    with torch.serialization.safe_globals([*harmless, (_statistic, "builtins.getattr")]):
        return read_checkpoint(local_file(str(source)))


@CheckpointLoader.register_scheme(prefixes=("", "http://", "https://"), force=True)
def _load(filename: str, map_location: Any = None, **_: Any) -> dict[str, Any]:
    """mmengine's own loader unpickles whatever it cannot load safely; this one refuses."""
    return read(filename)


def load_weights(model: nn.Module, source: str | Path) -> dict[str, Any]:
    """Load a checkpoint into a detector or segmentor, whole.

    Returns:
        What the checkpoint says of its data: `classes` and `palette`.

    Raises:
        WeightsError: It does not fit, or holds numbers that are not finite; the message names keys.
    """
    checkpoint = read(source)
    load_state(model, checkpoint, source)
    meta = checkpoint.get("meta") or {}
    data = {key.lower(): value for key, value in (meta.get("dataset_meta") or {}).items()}
    for key in ("classes", "palette"):  # where mmdet 2 and mmsegmentation 0 kept them
        if key not in data and meta.get(key.upper()) is not None:
            data[key] = meta[key.upper()]
    return data


def load_state(model: nn.Module, checkpoint: Mapping[str, Any], source: str | Path, fine_tuning: bool = False) -> None:
    """Load the weights of a checkpoint that was read into a detector or segmentor.

    Args:
        model: The whole model.
        checkpoint: The content of `source`.
        source: For messages.
        fine_tuning: Let weights of heads that have other classes start afresh.

    Raises:
        WeightsError: As `load_weights`.
    """
    state = next((checkpoint[key] for key in ("state_dict", "model") if key in checkpoint), checkpoint)
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, torch.Tensor)}
    own = model.state_dict()
    remedy = "give the config that it was trained with"
    # Buffers may hold infinities, such as masks do.
    broken = [key for key, value in state.items() if not _finite(value) and (key not in own or _finite(own[key]))]
    if broken:
        raise WeightsError(
            f"{source} holds numbers that are not finite in {len(broken)} of {len(state)} weights "
            f"({some(broken, _SHOWN)}), as a training that diverged leaves them: give an earlier checkpoint."
        )
    other = [key for key in own if key in state and own[key].shape != state[key].shape and "backbone." not in key]
    fresh = [key for key in other if own[key].shape[1:] == state[key].shape[1:]] if fine_tuning else []
    if len(other) > len(fresh):
        shapes = f"{tuple(state[other[0]].shape)} instead of {tuple(own[other[0]].shape)}"
        raise WeightsError(
            f"{source} is of another model: {len(other)} weights have other shapes, such as {other[0]} ({shapes}); "
            f"{remedy}."
        )
    found = model.load_state_dict({key: value for key, value in state.items() if key not in fresh}, strict=False)
    missing = [key for key in found.missing_keys if not key.endswith("num_batches_tracked") and key not in fresh]
    if missing:
        raise WeightsError(
            f"{source} is of another model: it lacks {len(missing)} of {len(own)} weights ({some(missing, _SHOWN)}); "
            f"{remedy}."
        )
    if fresh:
        print_log(f"{source}: of other classes, so that these start afresh: {some(fresh, _SHOWN)}", logger="current")
    if found.unexpected_keys:
        print_log(f"{source}: not used: {some(found.unexpected_keys, _SHOWN)}", logger="current")


def _finite(values: torch.Tensor) -> bool:
    return not values.is_floating_point() or bool(torch.isfinite(values.float()).all())
