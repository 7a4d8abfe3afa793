"""Loaders whose batches depend on (seed, epoch, step) only: not on workers, processes or where a run was resumed.

The order of an epoch is one permutation seeded by (seed, epoch). A global batch is a slice of it, cut into one shard
for every process and accumulation step; each sample is augmented under its own seed (seed, epoch, index, repeat). So a
run can start at any step of any epoch, on any number of processes, and sees exactly the same images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from backbones.train.data.datasets import DataError, ImageSource, StreamSource
from backbones.train.data.workers import Loader
from backbones.utils.seeding import mix_seed, seeded


def shard_positions(batch: int, shards: int, shard: int) -> list[int]:
    """Positions of one shard of a global batch.

    When every shard is even in size, positions p and ``batch - 1 - p`` fall into the same shard at mirrored places.
    timm's Mixup pairs an image with its mirror image in the batch, so each image keeps its partner however the batch
    is sharded.

    Args:
        batch: Size of the global batch, a multiple of ``shards``.
        shards: Number of processes times accumulation steps.
        shard: Which one, from 0.
    """
    if (batch // shards) % 2:
        return list(range(shard, batch, shards))
    first = list(range(shard, batch // 2, shards))
    return first + [batch - 1 - p for p in reversed(first)]


class TrainSampler:
    """Batch sampler of one process: yields lists of ``(epoch, index, repeat)`` keys, one list a micro-batch.

    The arguments are those of :class:`TrainLoader`, `size` is the number of images.
    """

    def __init__(
        self, size: int, batch_size: int, accum: int, rank: int, world: int, seed: int, repeats: int = 0
    ) -> None:
        self.size, self.batch_size, self.accum = size, batch_size, accum
        self.rank, self.world, self.seed, self.repeats = rank, world, seed, max(1, int(repeats))
        self.epoch = self.start = 0

    @property
    def global_batch(self) -> int:
        """Images of one optimiser step over all processes and micro-batches."""
        return self.batch_size * self.accum * self.world

    @property
    def steps(self) -> int:
        """Optimiser steps an epoch; at least one: data smaller than the global batch is repeated to fill it."""
        return max(1, self.size // self.global_batch)

    def order(self, epoch: int) -> list[tuple[int, int]]:
        """The epoch's ``(index, repeat)``, as many as its steps use."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, "order", epoch))
        need, pairs, lap = self.steps * self.global_batch, [], 0
        while len(pairs) < need:
            indices = torch.randperm(self.size, generator=generator).tolist()
            pairs += [(i, lap * self.repeats + r) for i in indices for r in range(self.repeats)]
            lap += 1
        return pairs[:need]

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        order, shards = self.order(self.epoch), self.world * self.accum
        for step in range(self.start, self.steps):
            batch = order[step * self.global_batch : (step + 1) * self.global_batch]
            for micro in range(self.accum):
                positions = shard_positions(self.global_batch, shards, self.rank * self.accum + micro)
                yield [(self.epoch, *batch[p]) for p in positions]

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accum


class _SeededTrain(Dataset):
    """Augments each sample under a seed of its own; unreadable images are replaced by the next readable one."""

    def __init__(self, source: ImageSource, transform: Callable, seed: int) -> None:
        self.source, self.transform, self.seed = source, transform, seed

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[torch.Tensor, int] | DataError:
        epoch, index, repeat = key
        try:
            image, label = self.source.read_next(index)
        except DataError as error:
            return error
        with seeded(self.seed, "augment", epoch, index, repeat):
            return self.transform(image), label

    def __len__(self) -> int:
        return len(self.source)


class _Evaluation(Dataset):
    """Transforms each sample."""

    def __init__(self, source: ImageSource, transform: Callable) -> None:
        self.source, self.transform = source, transform

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int] | DataError:
        try:
            image, label = self.source[index]
        except DataError as error:
            return error
        return self.transform(image), label

    def __len__(self) -> int:
        return len(self.source)


class _SeededStream(IterableDataset):
    """Transforms a stream, each sample under (seed, epoch, rank, worker, position)."""

    def __init__(self, source: StreamSource, transform: Callable, seed: int, rank: int) -> None:
        self.source, self.transform, self.seed, self.rank, self.epoch = source, transform, seed, rank, 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int] | DataError]:
        worker = get_worker_info()
        try:
            for position, (image, label) in enumerate(self.source):
                with seeded(self.seed, "stream", self.epoch, self.rank, worker.id if worker else 0, position):
                    yield self.transform(image), label
        except DataError as error:
            yield from itertools.repeat(error)  # until a batch is full: an incomplete one may be dropped


class TrainLoader:
    """Micro-batches of training data that can start at any step of any epoch.

    Args:
        source: The data.
        transform: Random transform from PIL image to tensor.
        batch_size: Images a process takes in one micro-batch.
        accum: Micro-batches of one optimiser step.
        seed: Seed of the run.
        rank: This process.
        world: Number of processes.
        repeats: Repeated augmentation: each image comes this many times in a row (on different processes), and an
            epoch has as many samples as without (Hoffer et al., arXiv:1901.09335).
        workers: Loader processes. For streamed data at least one, and the same number is needed to resume exactly.
        pin_memory: Page-locked batches, for copies to a GPU.
    """

    def __init__(
        self,
        source: ImageSource | StreamSource,
        transform: Callable,
        batch_size: int,
        accum: int = 1,
        seed: int = 42,
        rank: int = 0,
        world: int = 1,
        repeats: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.source, self.seed, self.rank = source, seed, rank
        self.streamed = isinstance(source, StreamSource)
        self.kwargs: dict[str, Any] = {"num_workers": workers, "pin_memory": pin_memory}
        if self.streamed:
            if repeats:
                raise DataError("Repeated augmentation (--aug-repeats) needs random access; streamed data has none.")
            self.kwargs["num_workers"] = max(1, workers)
            source.set_loader_cfg(self.kwargs["num_workers"])
            self.dataset: Dataset = _SeededStream(source, transform, seed, rank)
            self.sampler = TrainSampler(len(source) * world, batch_size, accum, rank, world, seed)
        else:
            if len(source) == 0:
                raise DataError("The training data is empty.")
            self.dataset = _SeededTrain(source, transform, seed)
            self.sampler = TrainSampler(len(source), batch_size, accum, rank, world, seed, repeats)
            self.loader = Loader(
                self.dataset, batch_sampler=self.sampler, persistent_workers=workers > 0, **self.kwargs
            )

    @property
    def steps(self) -> int:
        """Optimiser steps an epoch."""
        return self.sampler.steps

    @property
    def global_batch(self) -> int:
        """Images of one optimiser step."""
        return self.sampler.global_batch

    def halve(self) -> str:
        """Half the micro-batch and twice the accumulation steps: the same global batch; returns a sentence on it.

        Raises:
            DataError: When the micro-batch cannot be halved.
        """
        sampler = self.sampler
        if sampler.batch_size % 2:
            raise DataError(f"A batch of {sampler.batch_size} cannot be halved any more.")
        sampler.batch_size, sampler.accum = sampler.batch_size // 2, sampler.accum * 2
        return (
            f"out of memory: now {sampler.batch_size} images x {sampler.accum} accumulation steps (global batch "
            f"{sampler.global_batch} as before)"
        )

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Micro-batches ``(images (B, C, H, W), labels (B,))`` of an epoch from optimiser step ``start`` on."""
        self.sampler.epoch, self.sampler.start = epoch, start
        if not self.streamed:
            yield from self.loader
            return
        self.source.set_epoch(epoch)
        self.dataset.epoch = epoch
        generator = torch.Generator().manual_seed(mix_seed(self.seed, "workers", epoch, self.rank))
        size, accum = self.sampler.batch_size, self.sampler.accum
        loader = Loader(self.dataset, batch_size=size, drop_last=True, generator=generator, **self.kwargs)
        # A stream has no random access: what an earlier run consumed is read again and dropped.
        for number, batch in enumerate(loader):
            if start * accum <= number < self.steps * accum:
                yield batch


class EvalLoader:
    """Batches of evaluation data in order; process r of w takes every w-th image from r on.

    All processes get the same number of batches of the same sizes; padding and unreadable images have label -1.

    The arguments are those of :class:`TrainLoader`; the transform is deterministic.
    """

    def __init__(
        self,
        source: ImageSource | StreamSource,
        transform: Callable,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        kwargs: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers, "pin_memory": pin_memory}
        self.source, self.batch_size = source, batch_size
        if isinstance(source, StreamSource):
            kwargs["num_workers"] = max(1, workers)
            source.set_loader_cfg(kwargs["num_workers"])
            self.loader = Loader(_SeededStream(source, transform, 0, rank), **kwargs)
            self.steps = -(-len(source) // batch_size)
        else:
            indices = list(range(rank, len(source), world))
            indices += [-1] * (-(-len(source) // world) - len(indices))
            self.loader = Loader(
                _Evaluation(source, transform), sampler=indices, persistent_workers=workers > 0, **kwargs
            )
            self.steps = len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(self.loader)

    def __len__(self) -> int:
        return self.steps
