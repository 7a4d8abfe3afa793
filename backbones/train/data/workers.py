"""The processes of data loaders: how they start, what signals do to them, and how they say that data is unusable."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from multiprocessing.util import Finalize
from typing import Any

from torch.utils.data import DataLoader, default_collate

_STOPPING = {signal.SIGINT, signal.SIGTERM}


@functools.cache
def _leaving(pid: int) -> Any:
    """A byte in shared memory that process ``pid`` sets when it shuts down, just before it ends its children."""
    flag = multiprocessing.RawValue("b", 0)
    Finalize(None, setattr, (flag, "value", 1), exitpriority=0)
    return flag


def _outlive_signals(leaving: Any, worker: int) -> None:
    """Lets a worker outlive a signal to the whole process group, so that the main process can finish and save.

    Schedulers, ``timeout`` and Ctrl-C signal every process. A worker that dies takes the run with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if leaving.value else None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keeps signals from new processes until they have their handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def collate(samples: list[Any]) -> Any:
    """A batch of the samples, or the first of them that is an exception."""
    failure = next((sample for sample in samples if isinstance(sample, Exception)), None)
    return default_collate(samples) if failure is None else failure


class Loader(DataLoader):
    """torch's DataLoader whose workers outlive signals and whose samples may be exceptions.

    An exception that the dataset *returns* is raised in the main process as it is; one that it raises comes with the
    worker's traceback in its message.
    """

    def __init__(self, dataset: Any, num_workers: int = 0, **kwargs: Any) -> None:
        init = functools.partial(_outlive_signals, _leaving(os.getpid())) if num_workers else None
        super().__init__(dataset, num_workers=num_workers, collate_fn=collate, worker_init_fn=init, **kwargs)

    def __iter__(self) -> Iterator[Any]:
        with _signals_blocked():
            batches: Iterable[Any] = super().__iter__()
        try:
            for batch in batches:
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        except (ConnectionError, EOFError) as error:  # what a batch that a dead worker was handing over ends in
            if not self.num_workers:
                raise
            raise RuntimeError("DataLoader worker exited unexpectedly") from error
