"""The processes of a distributed run."""

from __future__ import annotations

import time

import torch.distributed as dist

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
