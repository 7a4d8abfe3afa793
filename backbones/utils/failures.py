"""Failures of the machine in one sentence each: memory, disks, loader processes, other processes of a run."""

from __future__ import annotations

import errno
import re

import torch

#: What torch, its CPU allocator and oneDNN say when memory runs out.
_NO_MEMORY = r"out of memory|can't allocate memory|could not create a (primitive$|memory)"
#: What torch and gloo say when the process at the other end is gone.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "remote process")


class PeerError(RuntimeError):
    """Another process of the run failed first and has said why."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of an accelerator or of this process, ran out. Loader processes have their own memory."""
    text = str(error).lower()
    if "dataloader worker" in text:
        return False
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return type(error) is RuntimeError and re.search(_NO_MEMORY, text) is not None


def explain_failure(error: BaseException) -> str | None:
    """One sentence on what happened and what to do; None for anything that is not a failure of the machine."""
    text = str(error)
    last = text.strip().splitlines()[-1] if text.strip() else ""
    if isinstance(error, RuntimeError) and _shared_memory(text):
        return (
            "The loader processes ran out of shared memory (/dev/shm): pass --workers 0, a smaller --batch-size, or "
            "give a container more of it (docker run --shm-size 8g)."
        )
    if "received 0 items of ancdata" in text or getattr(error, "errno", None) == errno.EMFILE:
        return "Too many files are open at once: raise the limit (ulimit -n 65536) or lower --workers."
    if "DataLoader worker" in text and isinstance(error, (RuntimeError, MemoryError, OSError)):
        if isinstance(error, MemoryError) or "can't allocate memory" in text:
            return "A loader process ran out of memory: lower --workers or --batch-size."
        killed = re.search(r"killed by signal: ([\w ]+)", text)
        if killed or "exited unexpectedly" in text:
            how = f" ({killed[1].strip()})" if killed else ""
            return (
                f"A loader process was killed from outside{how}: where memory ran out, lower --workers or "
                "--batch-size; --workers 0 reads images in the main process."
            )
        if isinstance(error, OSError):
            return f"A loader process failed: {last}."
        return None
    if is_out_of_memory(error):
        return "Out of memory: lower --batch-size or --img-size."
    if isinstance(error, RuntimeError) and any(words in text for words in _LOST):
        return f"Lost the connection to another process, which ended without saying why ({last})."
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename}" if error.filename else ""
        return f"{error.strerror}:{where or ' no file named'}."
    return None


def _shared_memory(text: str) -> bool:
    return (
        "out of shared memory" in text
        or "unable to allocate shared memory" in text
        or (("/torch_" in text or "shm" in text) and ("No space left" in text or "unable to" in text))
    )
