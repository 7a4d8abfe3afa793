"""Processes of a run under torchrun: set-up, DDP, FSDP2, full state dicts, and small agreements between ranks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict as states
from torch.nn.parallel import DistributedDataParallel

from backbones.utils.failures import PeerError
from backbones.utils.processes import leave_processes
from backbones.utils.text import first_line

_WHOLE = states.StateDictOptions(full_state_dict=True)
_GATHERED = states.StateDictOptions(full_state_dict=True, cpu_offload=True)


class DeviceError(RuntimeError):
    """The device cannot be used; the message says what to do."""


@dataclass(frozen=True)
class World:
    """This process among all of the run.

    Attributes:
        rank: 0 writes the files and talks.
        size: Number of processes.
        device: Where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def primary(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process; all must call it."""
        return bool(self.sum([float(flag)])[0])

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sums over all processes, in float64; all must call it."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def min(self, value: int) -> int:
        """The smallest value of all processes; all must call it."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
        return int(tensor)

    def share(self, value: Any) -> Any:
        """Rank 0's value on every process; all must call it."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def barrier(self) -> None:
        """Waits for all processes."""
        self.sum([0.0])


def default_device() -> str:
    """The best kind of device of this machine."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextlib.contextmanager
def world(device: str | None = None) -> Iterator[World]:
    """Joins the processes that torchrun started (or stands alone) and leaves them at the end.

    Args:
        device: cuda, cpu or mps; with torchrun each process takes the GPU of its local rank.

    Raises:
        DeviceError: For an unknown device, a GPU that is not there, or processes that cannot be reached.
        PeerError: In place of any error that comes after another process has failed: one message is enough.
    """
    kind = device or default_device()
    try:
        kind = torch.device(kind).type
    except RuntimeError as error:
        raise DeviceError(f"--device {kind}: {first_line(error)}; use cuda, cpu or mps.") from error
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if kind == "cuda":
        local = int(os.environ.get("LOCAL_RANK", 0))
        if local >= torch.cuda.device_count():
            raise DeviceError(
                f"Process {local} of this node has no GPU ({torch.cuda.device_count()} found): "
                "lower --nproc_per_node, or pass --device cpu."
            )
        kind = f"cuda:{local}"
        torch.cuda.set_device(local)
    if size == 1:
        yield World(0, 1, torch.device(kind))
        return
    # Counters and flags travel as CPU tensors over gloo, so that they never wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if kind.startswith("cuda") else "gloo"
    try:
        dist.init_process_group(backend)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"Cannot join the {size} processes of the run ({first_line(error)}): start them with torchrun, "
            "and check MASTER_ADDR and MASTER_PORT."
        ) from error
    try:
        yield World(rank, size, torch.device(kind))
    except (Exception, KeyboardInterrupt) as error:
        if not _first_to_fail():
            raise PeerError("Another process of the run has failed.") from error
        raise
    finally:
        leave_processes()


def _first_to_fail() -> bool:
    """Whether no process of the run has failed before this one. Where the store is gone, its process has."""
    try:
        return dist.distributed_c10d._get_default_store().add("backbones/failures", 1) == 1
    except RuntimeError:
        return False


def wrap_ddp(model: nn.Module, world: World, broadcast_buffers: bool = True) -> nn.Module:
    """The model in DistributedDataParallel; itself when alone."""
    if world.size == 1:
        return model
    ids = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=broadcast_buffers)


def shard_fsdp(model: nn.Module, world: World) -> nn.Module:
    """Shards a model's parameters over all processes, in place (FSDP2): each block, then the rest with the root."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated units of a hierarchical or isotropic model: innermost lists called blocks, else stages."""
    lists = [m for name, m in model.named_modules() if name.rpartition(".")[2] in ("blocks", "layers")]
    lists = lists or [m for name, m in model.named_modules() if name.rpartition(".")[2] == "stages"]
    inner = [m for m in lists if isinstance(m, (nn.ModuleList, nn.Sequential))]
    inner = [m for m in inner if not any(other is not m and other in set(m.modules()) for other in inner)]
    return [block for m in inner for block in m if any(True for _ in block.parameters())]


@contextlib.contextmanager
def gradient_sync(model: nn.Module, sync: bool) -> Iterator[None]:
    """Backward passes inside exchange gradients between processes only if ``sync``."""
    if isinstance(model, DistributedDataParallel) and not sync:
        with model.no_sync():
            yield
    else:
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(sync)
        yield


def full_model_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The whole state dict on the CPU, of a sharded model on rank 0; all processes must call it."""
    return states.get_model_state_dict(model, options=_GATHERED)


def load_model_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Loads a whole state dict, strictly; of a sharded model every process gives it and keeps its shard."""
    states.set_model_state_dict(model, state, options=_WHOLE)


def full_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, fsdp: bool) -> dict[str, Any]:
    """The whole optimiser state, gathered on rank 0 under FSDP; all processes must call it."""
    return states.get_optimizer_state_dict(model, optimizer, options=_GATHERED) if fsdp else optimizer.state_dict()


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], fsdp: bool) -> None:
    """Loads what :func:`full_optimizer_state` gave."""
    if fsdp:
        states.set_optimizer_state_dict(model, optimizer, state, options=_WHOLE)
    else:
        optimizer.load_state_dict(state)
