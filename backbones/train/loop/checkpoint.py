"""Checkpoints of a run as one consistent set of files, whenever the process dies.

All files of a set are first written aside and synced. A commit record then names them, and only after that they are
renamed into place. A process killed before the record leaves the old set, one killed after it leaves a set that
:meth:`CheckpointFolder.recover` completes; a mixture is impossible.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from backbones.checkpoints.store import file_sha256, save_tensors
from backbones.utils.files import sync
from backbones.utils.text import first_line

STATE = "last.state.pt"
_RECORD = ".commit.json"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not belong to this run; the message says what to do."""


class CheckpointFolder:
    """Reads and writes the checkpoint files of one run folder.

    Args:
        folder: The run folder; it must exist.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)

    def _aside(self, name: str) -> Path:
        return self.folder / f".{name}.new"

    def commit(self, writers: Mapping[str, Callable[[Path], None]]) -> None:
        """Replaces files as one step.

        Args:
            writers: Final name and a function that writes that file to the path it is given, called in order.

        Raises:
            CheckpointError: When a file cannot be written; the old set is whole.
        """
        try:
            for name, write in writers.items():
                self._aside(name).unlink(missing_ok=True)
                write(self._aside(name))
                sync(self._aside(name))
            record = self.folder / f"{_RECORD}.new"
            record.write_text(json.dumps(list(writers)), encoding="utf-8")
            sync(record)
            os.replace(record, self.folder / _RECORD)
        except (OSError, RuntimeError) as error:  # torch.save's own errors of writing are RuntimeErrors
            reason = getattr(error, "strerror", None) or first_line(error)
            raise CheckpointError(
                f"Cannot save a checkpoint in {self.folder} ({reason}): the checkpoint before is whole; make room and "
                "go on with --resume."
            ) from error
        sync(self.folder)
        self._finish(list(writers))

    def _finish(self, names: list[str]) -> None:
        for name in names:
            if self._aside(name).exists():
                os.replace(self._aside(name), self.folder / name)
        sync(self.folder)
        (self.folder / _RECORD).unlink(missing_ok=True)

    def recover(self) -> None:
        """Completes a commit that was interrupted after its record, drops one that was interrupted before."""
        record = self.folder / _RECORD
        if record.exists():
            self._finish(json.loads(record.read_text(encoding="utf-8")))
        for leftover in self.folder.glob(".*.new"):
            leftover.unlink(missing_ok=True)

    @property
    def resumable(self) -> bool:
        """Whether there is a state to go on from, in a commit that `recover` completes or in place."""
        return (self.folder / STATE).exists() or ((self.folder / _RECORD).exists() and self._aside(STATE).exists())

    def save(
        self,
        weights: Mapping[str, Mapping[str, torch.Tensor]],
        state: dict[str, Any],
        copies: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> None:
        """Commits weights, the state that belongs to them, and further names for the same weights.

        Args:
            weights: File name and state dict.
            state: Optimiser and progress; loadable with ``weights_only=True``. The hashes of the weights are added.
            copies: Name of a copy and the file of ``weights`` it equals, e.g. best.safetensors and last.safetensors.
            metadata: Text stored in the safetensors headers.
        """
        hashes: dict[str, str] = {}

        def write_weights(name: str, path: Path) -> None:
            save_tensors(weights[name], path, metadata)
            path.chmod(0o644)  # safetensors leaves it readable to the owner only
            hashes[name] = file_sha256(path)

        def write_copy(name: str, path: Path) -> None:
            try:
                os.link(self._aside(name), path)  # files are replaced, never changed, so sharing one is safe
            except OSError:
                shutil.copyfile(self._aside(name), path)

        def write_state(path: Path) -> None:
            with open(path, "wb") as file:  # by itself, torch does not say why it cannot write
                torch.save({**state, "sha256": hashes}, file)

        writers: dict[str, Callable[[Path], None]] = {name: partial(write_weights, name) for name in weights}
        writers |= {copy: partial(write_copy, name) for copy, name in copies.items()}
        self.commit(writers | {STATE: write_state})

    def load(self) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
        """The last state and the weights it was saved with, all on the CPU.

        Raises:
            CheckpointError: When the state cannot be read or the weights are not the ones it was saved with.
        """
        self.recover()
        path = self.folder / STATE
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(f"Cannot read {path} ({error}): start a new run, from best.safetensors.") from error
        weights = {}
        for name, digest in state["sha256"].items():
            file = self.folder / name
            if not file.exists() or file_sha256(file) != digest:
                raise CheckpointError(
                    f"{file} is not the file that {STATE} was saved with: restore it, or start a new run from it with "
                    f"--initial-checkpoint {file}."
                )
            weights[name] = load_file(file)
        return weights, state
