"""Batches depend on seed, epoch and step only."""

from __future__ import annotations

import pytest
import torch
from timm.data import Mixup, create_transform

from backbones.train.data.datasets import DataError, DigitsDataset, build_dataset
from backbones.train.data.loader import EvalLoader, TrainLoader, TrainSampler, shard_positions
from backbones.utils.seeding import mix_seed, seeded
from tests.train.data.test_datasets import write_shards

RANDOM = create_transform(16, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.5)
PLAIN = create_transform(16)


def epoch(world=1, accum=1, batch=32, workers=0, start=0, number=1, **kwargs):
    """Global batches of an epoch's first steps: (steps, shards, images, labels)."""
    loaders = [
        TrainLoader(DigitsDataset(), RANDOM, batch, accum, 7, rank, world, workers=workers, **kwargs)
        for rank in range(world)
    ]
    steps = 2 * accum
    return [[b for b, _ in zip(loader.batches(number, start), range(steps))] for loader in loaders]


def as_set(batches):
    """Order-free content of some batches: each image's bytes with its label."""
    return sorted(
        (image.numpy().tobytes(), int(label)) for images, labels in batches for image, label in zip(images, labels)
    )


def test_same_global_batches_on_any_number_of_processes_steps_and_workers():
    [one] = epoch()
    two = epoch(world=2, batch=16, workers=1)
    [accum] = epoch(accum=2, batch=16)
    for step in range(2):
        whole = as_set([one[step]])
        assert as_set([rank[step] for rank in two]) == whole
        assert as_set(accum[2 * step : 2 * step + 2]) == whole
    assert as_set([one[0]]) != as_set([one[1]])


def test_an_epoch_can_start_at_any_step():
    [whole], [rest] = epoch(), epoch(start=1)
    assert torch.equal(whole[1][0], rest[0][0]) and torch.equal(whole[1][1], rest[0][1])


def test_epochs_and_seeds_differ():
    [first], [second] = epoch(number=0), epoch(number=1)
    assert not torch.equal(first[0][0], second[0][0])
    assert mix_seed(1, "a", 2) != mix_seed(1, "a", 3) != mix_seed(1, "b", 3)


def test_every_image_comes_once_an_epoch():
    sampler = TrainSampler(103, 10, 1, 0, 1, seed=0)
    keys = [key for batch in sampler for key in batch]
    assert len({index for _, index, _ in keys}) == len(keys) == 100


def test_data_smaller_than_the_batch_is_repeated():
    sampler = TrainSampler(5, 16, 1, 0, 1, seed=0)
    [batch] = list(sampler)
    assert len(batch) == 16 and len(set(batch)) == 16  # repeats are augmented differently
    assert {index for _, index, _ in batch} == set(range(5))


def test_repeated_augmentation_gives_different_views_to_different_processes():
    per_rank = [list(TrainSampler(120, 6, 1, rank, 2, seed=0, repeats=3)) for rank in range(2)]
    assert len(per_rank[0]) == 10  # as many steps as without
    batch = per_rank[0][0] + per_rank[1][0]
    assert len(set(batch)) == 12 and len({index for _, index, _ in batch}) == 4
    assert {index for _, index, _ in per_rank[0][0]} == {index for _, index, _ in per_rank[1][0]}


def test_repeats_are_augmented_differently():
    loader = TrainLoader(DigitsDataset(), RANDOM, 6, repeats=3)
    images, labels = next(loader.batches(0))
    order = loader.sampler.order(0)[:6]
    assert order[0][0] == order[1][0] == order[2][0] and [r for _, r in order] == [0, 1, 2] * 2
    assert len({image.numpy().tobytes() for image in images}) == 6 and len(set(labels[:3].tolist())) == 1


def test_shards_are_a_partition_that_keeps_mixup_partners():
    for batch, shards in ((16, 1), (16, 2), (24, 4), (12, 3), (12, 4)):
        parts = [shard_positions(batch, shards, shard) for shard in range(shards)]
        assert sorted(p for part in parts for p in part) == list(range(batch))
        if batch // shards % 2 == 0:
            assert all(p + q == batch - 1 for part in parts for p, q in zip(part, reversed(part)))


def test_mixed_batches_are_the_same_on_two_processes():
    def mixed(batches):
        result = []
        for images, labels in batches:
            with seeded(3, "mix", 0, 0):
                images, _ = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=10)(images.clone(), labels)
            result.append((images, labels))
        return result

    [one] = epoch()
    two = epoch(world=2, batch=16)
    assert as_set(mixed([one[0]])) == as_set(mixed([two[0][0], two[1][0]])) != as_set([one[0]])


def test_evaluation_pads_to_equal_batches():
    data = DigitsDataset("val")
    labels = [torch.cat([y for _, y in EvalLoader(data, PLAIN, 50, rank, 3)]) for rank in range(3)]
    assert [len(part) for part in labels] == [119, 119, 119]
    assert sorted(int(y) for part in labels for y in part if y >= 0) == sorted(data.labels)
    assert sum(int((part < 0).sum()) for part in labels) == 2


def test_halving_keeps_the_global_batch():
    loader = TrainLoader(DigitsDataset(), PLAIN, 32)
    before = as_set([next(loader.batches(0))])
    loader.halve()
    assert loader.global_batch == 32
    assert as_set([b for b, _ in zip(loader.batches(0), range(2))]) == before


def test_streams_repeat_exactly_and_resume(photo_folder, tmp_path):
    write_shards(tmp_path, photo_folder)

    def batches(number, start=0):
        data = build_dataset("wds/photos", "train", data_dir=str(tmp_path), is_training=True, batch_size=8, seed=5)
        loader = TrainLoader(data, RANDOM, 8, seed=5, workers=2)
        assert loader.steps == 6
        return list(loader.batches(number, start))

    whole, rest, other = batches(1), batches(1, start=4), batches(2)
    assert len(whole) == 6 and len(rest) == 2
    assert torch.equal(whole[4][0], rest[0][0]) and torch.equal(whole[5][0], rest[1][0])
    assert not torch.equal(whole[0][0], other[0][0])
    with pytest.raises(DataError, match="aug-repeats"):
        TrainLoader(build_dataset("wds/photos", "train", data_dir=str(tmp_path)), RANDOM, 8, repeats=3)
