"""The processes that command lines run in: their memory, the signals they get, and how they end."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed as dist

# Options of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

#: How long a process waits for the threads of its process group, in seconds.
_GRACE = 0.2

#: A SIGINT this many seconds after the first signal is a user's who does not want to wait.
_IMPATIENT = 5.0


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


class Stop:
    """Turns SIGINT and SIGTERM into a flag; a second SIGINT some seconds later interrupts at once.

    One request to stop may come as several signals: ``timeout`` signals its child and then the process group, and
    torchrun passes on what it got to processes that got it too.
    """

    def __init__(self) -> None:
        self.signal, self.since = 0, 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listens inside the block."""
        saved = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in saved.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.signal:
            self.signal, self.since = number, now
        elif number == signal.SIGINT and now - self.since > _IMPATIENT:
            raise KeyboardInterrupt
