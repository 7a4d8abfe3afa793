"""The processes that command lines run in: their memory, and how they end."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping

import torch.distributed as dist

# Options of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

#: How long a process waits for the threads of its process group, in seconds.
_GRACE = 0.2


def leave_processes() -> None:
    """Leaves the process group, where there is one, so that the process can end.

    gloo's threads let go of a collective's tensors after they have reported it done, and need Python's lock for that.
    One that asks for the lock while Python shuts down ends the process with SIGABRT, upon which torchrun ends the
    others too (torch 2.11; Python before 3.14). While this waits, the lock is free.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(_GRACE)


def keep_freed_memory() -> None:
    """Lets the process keep the memory that it frees for its next tensors, where the C library is glibc.

    glibc returns every tensor above 32 MiB to the system, and the fresh pages of the next one cost more time than the
    arithmetic on them. For programs that have their process to themselves: where sizes vary, it grows larger.
    """
    _set_malloc({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1})


def return_freed_memory() -> None:
    """Takes :func:`keep_freed_memory` back, for a process whose memory has run out: kept memory is in pieces."""
    _set_malloc({_M_MMAP_MAX: 65536, _M_TRIM_THRESHOLD: 128 * 1024})  # glibc's own values


def _set_malloc(values: Mapping[int, int]) -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    for option, value in values.items():
        mallopt(option, value)
