"""Checkpoint files read with care: nothing in them is executed, and nothing that they say of themselves is believed."""

from __future__ import annotations

import argparse
import mmap
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from backbones.checkpoints.errors import WeightsError
from backbones.models.registry import unwrap_checkpoint

_SHOWN = 3  # keys in a message
_LENGTH = 200  # characters of a key in a message
# What a file states, in bytes, is at most so many times its own size, and so much more. Weights hardly compress, but
# some tensors are views of others, and constant ones may be views of a single number.
_RATIO, _ROOM = 4, 1 << 28
_MOST = 20_000  # tensors of a model; ten times those of the largest
_ZIP, _COMPRESSED = b"PK\x03\x04", (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"(\xb5/\xfd")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a safetensors or torch file; nothing in it is executed.

    Raises:
        WeightsError: It is missing, truncated, no checkpoint, states far more numbers than it can hold, or holds
            objects that only unpickling could restore.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"Cannot read {path}: {error.strerror}.") from error
    if head.startswith(_COMPRESSED):
        raise WeightsError(f"{path} is a compressed archive: unpack it and give the checkpoint inside.")
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"{path} is a web page, not a checkpoint: download it again with a browser.")
    try:
        if head[8:9] == b"{":
            return load_file(path)
        _check_archive(path, head)
        with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts store their arguments
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        tensors: list[torch.Tensor] = []
        checkpoint = _plain(checkpoint, tensors, {})
        if any(value.is_meta for value in tensors):
            raise WeightsError(f"{path} holds tensors without numbers (on the meta device): get a good copy of it.")
        _check_size(path, sum(value.numel() * value.itemsize for value in tensors))
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise _unsafe(path, error) from error
    except Exception as error:  # a damaged file may end in any, deep inside of torch's and safetensors' readers
        raise WeightsError(f"{path} is truncated or not a checkpoint ({first_line(error)}).") from error
    if not isinstance(checkpoint, dict):
        raise WeightsError(f"{path} holds a {type(checkpoint).__name__} instead of a state dict.")
    return checkpoint


def _check_size(path: Path, stated: int) -> None:
    size = path.stat().st_size
    if stated > _RATIO * size + _ROOM:
        raise WeightsError(
            f"{path} has {size} bytes and states {stated}, which no file of weights does: get a good copy of it."
        )


def _check_archive(path: Path, head: bytes) -> None:
    """Refuse what would take any amount of memory before torch reads it."""
    if head.startswith(_ZIP):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_size(path, sum(member.file_size for member in members))
            hostile = any(_asks_for_memory(archive.read(m)) for m in members if m.filename.endswith(".pkl"))
    elif head:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            hostile = _asks_for_memory(content)
    else:
        raise EOFError("it is empty")
    if hostile:
        raise WeightsError(f"{path} holds a bytearray, which no file of weights does: get a good copy of it.")


def _asks_for_memory(pickled: bytes | mmap.mmap) -> bool:
    """Whether a pickle names the one harmless type that is made of zeros in any number."""
    return pickled.find(b"\nbytearray\n") >= 0


def _plain(value: Any, tensors: list[torch.Tensor], done: dict[int, Any]) -> Any:
    """Dicts in dicts, and their tensors, without attributes that a file may hang on them in the place of methods.

    Args:
        value: What was read.
        tensors: Receives each tensor.
        done: Results by the identity of what they are of, as a file may name an object many times.
    """
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        value, found = dict.items(value), done.setdefault(id(value), {})
        found.update((key, _plain(inner, tensors, done)) for key, inner in value)
        return found
    if isinstance(value, torch.Tensor):
        done[id(value)] = torch.Tensor.detach(value)
        tensors.append(done[id(value)])
        return done[id(value)]
    return value


def _unsafe(path: Path, error: pickle.UnpicklingError) -> WeightsError:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an unreadable file, or a format that cannot be listed
        return WeightsError(f"{path} is truncated or not a checkpoint that loads with weights_only=True.")
    return WeightsError(
        f"{path} holds Python objects besides its weights ({some(found) or 'unknown'}), which are not "
        "unpickled here: if you trust it, load it with torch.load(..., weights_only=False), save its state dict alone "
        "with torch.save, and give that file."
    )


def averaged(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The moving average in the checkpoint of a training run, as timm's loaders prefer it; else the whole of it."""
    found = (checkpoint.get(key) for key in ("state_dict_ema", "model_ema"))
    return next((inner for inner in found if isinstance(inner, dict)), checkpoint)


def tensors_of(checkpoint: Mapping[str, Any], source: str | Path) -> dict[str, torch.Tensor]:
    """The weights inside a checkpoint, under the authors' names.

    Args:
        checkpoint: With or without wrapper.
        source: Where it comes from, for the message.

    Raises:
        WeightsError: There are none, or some are of a kind that no model of the zoo takes.
    """
    state = unwrap_checkpoint(checkpoint)
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors or any(isinstance(value, dict) for value in state.values()):  # such as the state of a run
        raise WeightsError(
            f"{source} holds no weights at its top level, 'state_dict' or 'model' (it has "
            f"{some(checkpoint) or 'nothing'}): give a file of weights."
        )
    if len(tensors) > _MOST:
        raise WeightsError(f"{source} holds {len(tensors)} tensors, more than any model has: get a good copy of it.")
    for key, value in tensors.items():
        kind = _odd_kind(value)
        if kind is not None:
            raise WeightsError(
                f"{source} holds tensors that are {kind} ({shown(key)}): give a file of plain floating-point weights."
            )
    return tensors


def _odd_kind(tensor: torch.Tensor) -> str | None:
    """What keeps a tensor from being converted to floating-point numbers, in words."""
    if hasattr(tensor, "__tensor_flatten__"):
        return f"wrapped in a {type(tensor).__name__}"
    if tensor.is_nested or tensor.layout is not torch.strided:
        return "sparse or nested"
    if tensor.is_quantized:
        return "quantised"
    return None if _is_real(tensor.dtype) else f"of type {tensor.dtype}"


@cache
def _is_real(dtype: torch.dtype) -> bool:
    try:
        torch.empty(1, dtype=dtype).double()
    except (RuntimeError, TypeError):
        return False
    return not dtype.is_complex


def shown(key: Any) -> str:
    """A name from a file, fit for a message of one line."""
    text = str(key)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}..."


def some(keys: Iterable[Any]) -> str:
    """The first few names from a file in words."""
    keys = list(keys)
    return ", ".join(map(shown, keys[:_SHOWN])) + (", ..." if len(keys) > _SHOWN else "")


def first_line(error: BaseException) -> str:
    """The beginning of an error's message, to stand in brackets."""
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:"))
