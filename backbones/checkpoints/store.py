"""The local store: a folder of `<model>.<tag>.safetensors`, each with a sidecar that says where it came from.

A file enters the store whole or not at all: it is written aside, synced and renamed, under a lock that other processes
wait for. Locks and unfinished downloads live in the hidden folder `.work` of the store.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import save_file

from backbones.checkpoints.errors import WeightsError
from backbones.utils.files import sync

ENVIRONMENT = "BACKBONES_CHECKPOINTS"
_CLONE = Path(__file__).resolve().parents[2]
_NAME = re.compile(r"[A-Za-z0-9_]+\.[A-Za-z0-9_]+")


def default_folder() -> Path:
    """`$BACKBONES_CHECKPOINTS`, else `checkpoints/` when running from a clone, else the user's cache folder."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named).expanduser()
    if (_CLONE / "tools" / "checkpoint.py").is_file():
        return _CLONE / "checkpoints"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "backbones" / "checkpoints"


def file_sha256(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Record:
    """The sidecar of a stored file.

    Attributes:
        source: Address, or name of the local file, that the weights came from.
        source_sha256: Of the file as published.
        sha256: Of the stored safetensors file.
        date: When it was stored, ISO 8601, UTC.
        license: Of the weights, "not stated" where nobody says.
        num_classes: Classes of its head.
    """

    source: str
    source_sha256: str
    sha256: str
    date: str
    license: str
    num_classes: int


class Store:
    """A folder of converted weights.

    Args:
        folder: Where; `default_folder()` if None. Created with the first file.
    """

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()
        self.work = self.folder / ".work"

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"

    def path(self, name: str) -> Path:
        """Where the weights `name` ("model.tag") lie, whether or not they are there.

        Raises:
            WeightsError: `name` is not of that form, so the path could lead out of the store.
        """
        if not _NAME.fullmatch(name):
            raise WeightsError(f"{name!r} is not the name of a set of weights: give model.tag, such as nat_m.in1k.")
        return self.folder / f"{name}.safetensors"

    def sidecar(self, name: str) -> Path:
        return self.path(name).with_suffix(".json")

    def names(self) -> list[str]:
        """Names of all weights that are in the store."""
        return sorted(path.stem for path in self.folder.glob("*.safetensors") if _NAME.fullmatch(path.stem))

    def record(self, name: str) -> Record | None:
        """The sidecar of `name`; None where there is none.

        Raises:
            WeightsError: It cannot be read.
        """
        path = self.sidecar(name)
        try:
            found = Record(**json.loads(path.read_text(encoding="utf-8")))
            for one in fields(found):
                if type(getattr(found, one.name)).__name__ != one.type:
                    raise TypeError(f"{one.name} is not of type {one.type}")
            return found
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise WeightsError(f"{path} is not a readable record of weights ({error}): delete it.") from error

    def check(self, name: str) -> Path | None:
        """The stored file if it is there and recorded.

        Returns:
            Its path, or None where the file or its record is missing.

        Raises:
            WeightsError: The file is not the one that was recorded.
        """
        path = self.path(name)
        record = self.record(name) if path.is_file() else None
        if record is None:
            return None
        digest = file_sha256(path)
        if digest != record.sha256:
            raise WeightsError(
                f"{path} was truncated or altered (its sha256 is {digest}, recorded is {record.sha256}): delete it to "
                "fetch or convert it again."
            )
        return path

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Let one process at a time change what the store holds of `name`; others wait."""
        self.path(name)
        with storing(self.folder):
            self.work.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.work / f"{name}.lock")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def put(
        self,
        name: str,
        state_dict: Mapping[str, torch.Tensor],
        *,
        source: str,
        source_sha256: str,
        license: str | None,
        num_classes: int,
    ) -> Path:
        """Store weights and their record; call under `lock(name)`.

        Raises:
            WeightsError: The folder cannot be written or the disk is full; the store is as before.
        """
        path, sidecar = self.path(name), self.sidecar(name)
        new, new_sidecar = self.work / f"{name}.safetensors.new", self.work / f"{name}.json.new"
        try:
            with storing(self.folder):
                save_tensors(state_dict, new, {"source": source})
                record = Record(
                    source=source,
                    source_sha256=source_sha256,
                    sha256=file_sha256(new),
                    date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    license=license or "not stated",
                    num_classes=num_classes,
                )
                new_sidecar.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
                sync(new_sidecar)
                # The record goes first: alone, it is as if the file had been deleted, and what comes next is checked.
                os.replace(new_sidecar, sidecar)
                os.replace(new, path)
                sync(self.folder)
        finally:
            new.unlink(missing_ok=True)
            new_sidecar.unlink(missing_ok=True)
        return path


def save_tensors(state_dict: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors and sync it to disk; the same tensors and metadata give the same bytes.

    Raises:
        OSError: It cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state_dict.items()}
    try:
        save_file(tensors, path, metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:  # its errors of writing carry no number
        raise OSError(str(error)) from error
    _sort_metadata(path)
    sync(path)


def _sort_metadata(path: Path) -> None:
    """Puts the metadata of a safetensors file in order; the library writes it in that of a hash map."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # the rest of a header is spaces
            file.seek(8)
            file.write(text.ljust(size))


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Failures of writing as one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise WeightsError(
            f"Cannot write to the store {folder} ({reason}): free some space or name another folder in ${ENVIRONMENT}."
        ) from error
