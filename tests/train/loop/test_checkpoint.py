"""A checkpoint set is the old one or the new one, whenever the process dies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from backbones.train.loop import checkpoint
from backbones.train.loop.checkpoint import STATE, CheckpointError, CheckpointFolder
from backbones.train.loop.folder import folder_to_resume
from backbones.train.options.recipe import RECIPE, resolve


class Killed(BaseException):
    """Stands for the death of the process: no handler may run."""


def save(folder, value):
    weights = {
        "last.safetensors": {"w": torch.full((3, 2), float(value))},
        "last_ema.safetensors": {"w": torch.zeros(1)},
    }
    folder.save(weights, {"updates": value}, {"best.safetensors": "last.safetensors"}, {"model": "m"})


def test_what_is_saved_comes_back(tmp_path):
    folder = CheckpointFolder(tmp_path)
    assert not folder.resumable
    save(folder, 1)
    save(folder, 2)
    weights, state = folder.load()
    assert state["updates"] == 2 and float(weights["last.safetensors"]["w"].sum()) == 12
    assert torch.equal(load_file(tmp_path / "best.safetensors")["w"], weights["last.safetensors"]["w"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors",
        "last.safetensors",
        "last.state.pt",
        "last_ema.safetensors",
    ]
    assert torch.load(tmp_path / STATE, weights_only=True)["sha256"].keys() == {
        "last.safetensors",
        "last_ema.safetensors",
    }


@pytest.fixture
def saves_until(monkeypatch):
    """Saves, but dies before a write, sync, link, rename or delete of that number; returns whether it got through."""
    calls, limit = 0, None

    def mortal(function):
        def call(*args, **kwargs):
            nonlocal calls
            if limit is not None and calls >= limit:
                raise Killed
            calls += 1
            return function(*args, **kwargs)

        return call

    for owner, name in ((os, "replace"), (os, "link"), (os, "fsync"), (checkpoint, "save_tensors"), (torch, "save")):
        monkeypatch.setattr(owner, name, mortal(getattr(owner, name)))
    monkeypatch.setattr(checkpoint.Path, "unlink", mortal(checkpoint.Path.unlink))

    def run(number, folder, value):
        nonlocal calls, limit
        calls, limit = 0, number
        try:
            save(folder, value)
            return True
        except Killed:
            return False
        finally:
            limit = None

    return run


def test_death_at_any_call_leaves_one_consistent_set(tmp_path, saves_until):
    seen = []
    for number in range(100):
        path = tmp_path / str(number)
        path.mkdir()
        save(CheckpointFolder(path), 1)
        complete = saves_until(number, CheckpointFolder(path), 2)
        weights, state = CheckpointFolder(path).load()
        value = state["updates"]
        assert value in (1, 2)
        assert float(weights["last.safetensors"]["w"][0, 0]) == value
        assert float(load_file(path / "best.safetensors")["w"][0, 0]) == value
        assert not list(path.glob(".*"))
        seen.append(value)
        if complete:
            break
    assert complete and len(seen) > 15
    assert seen == sorted(seen) and seen[0] == 1 and seen.count(2) > 3  # one point in time at which it takes effect


def test_death_in_the_first_save_leaves_a_run_to_go_on_with_or_none(tmp_path, saves_until):
    seen = []
    for number in range(100):
        path = tmp_path / str(number)
        path.mkdir()
        (path / RECIPE).write_text("model: m\n")
        complete = saves_until(number, CheckpointFolder(path), 1)
        found = folder_to_resume(resolve(given={"resume": "auto", "output": str(tmp_path), "experiment": str(number)}))
        seen.append(found is not None)
        if found:
            assert CheckpointFolder(path).load()[1]["updates"] == 1
        if complete:
            break
    assert complete and seen == sorted(seen) and not seen[0] and seen.count(True) > 3


def test_half_written_file_is_never_taken(tmp_path):
    folder = CheckpointFolder(tmp_path)
    save(folder, 1)
    (tmp_path / ".last.safetensors.new").write_bytes(b"half")
    (tmp_path / ".commit.json.new").write_text('["last.saf')
    assert folder.load()[1]["updates"] == 1
    assert not list(tmp_path.glob(".*"))


def test_weights_of_another_save_are_detected(tmp_path):
    folder = CheckpointFolder(tmp_path)
    save(folder, 1)
    old = (tmp_path / "last.safetensors").read_bytes()
    save(folder, 2)
    (tmp_path / "last.safetensors").unlink()
    (tmp_path / "last.safetensors").write_bytes(old)
    with pytest.raises(CheckpointError, match=r"is not the file that .* was saved with"):
        folder.load()


def test_equal_weights_are_equal_files(tmp_path):
    """The order of the metadata is that of a hash map in safetensors: another one with nearly every file."""
    digests = set()
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        folder = CheckpointFolder(tmp_path / str(number))
        metadata = {"model": "größer", "updates": "3", "a": "1", "b": "2", "quote": '"\n'}
        folder.save({"last.safetensors": {"w": torch.arange(3.0), "v": torch.zeros(2)}}, {}, {}, metadata)
        digests.add(folder.load()[1]["sha256"]["last.safetensors"])
        with safe_open(tmp_path / str(number) / "last.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt", **metadata}
            assert file.get_tensor("w").tolist() == [0, 1, 2]
    assert len(digests) == 1


def test_a_full_disk_keeps_the_set_before(tmp_path):
    folder = CheckpointFolder(tmp_path)
    save(folder, 1)
    (tmp_path / ".last.state.pt.new").symlink_to("/dev/full")
    unlink = Path.unlink
    Path.unlink = lambda path, missing_ok=False: None if path.is_symlink() else unlink(path, missing_ok)
    try:
        with pytest.raises(CheckpointError, match=r"Cannot save .*No space left on device.*the checkpoint before"):
            save(folder, 2)
    finally:
        Path.unlink = unlink
    assert CheckpointFolder(tmp_path).load()[1]["updates"] == 1


def test_damaged_state(tmp_path):
    folder = CheckpointFolder(tmp_path)
    save(folder, 1)
    (tmp_path / STATE).write_bytes(b"zzz")
    with pytest.raises(CheckpointError, match="Cannot read"):
        folder.load()
