"""Damaged and hostile files through every door: each loads, or is told in one sentence; nothing is executed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from backbones.checkpoints import Store, WeightsError, load_into
from backbones.checkpoints.cli import main
from backbones.models import family_of
from backbones.train.evaluation.models import ModelError, load_model
from tests.checkpoints.hostile import hostile, mutated, torch_file
from tests.checkpoints.zoo import TINY_NAME, publish, tiny_state

STATE = tiny_state()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for files, with a store in it, and a good file; `nat_m` has test size."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("BACKBONES_CHECKPOINTS", str(folder / "store"))
        publish(monkeypatch, None)
        Store().folder.mkdir()
        (folder / "good.pth").write_bytes(torch_file(STATE))
        yield folder


@pytest.fixture(scope="module")
def files(folder) -> dict[str, bytes]:
    return hostile(STATE, folder / "mark")


def create(path: Path, **kwargs) -> None:
    timm.create_model(TINY_NAME, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs)


def command(*argv: object) -> None:
    assert main([str(value) for value in argv]) in (0, 1, 2)


def from_the_store(path: Path) -> None:
    """The file as it would lie in the store, its record saying that it is right."""
    store = Store()
    store.path(TINY_NAME).write_bytes(path.read_bytes())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record = {"source": "x", "source_sha256": "", "sha256": digest, "date": "", "license": "", "num_classes": 1000}
    store.sidecar(TINY_NAME).write_text(json.dumps(record))
    timm.create_model(TINY_NAME, pretrained=True)


def verify(path: Path) -> None:
    try:
        from_the_store(path)
    except WeightsError:
        assert main(["verify"]) == 1
    else:
        assert main(["verify"]) == 0


def put_into_the_store(path: Path) -> None:
    for old in Store().folder.glob("[!.]*"):
        old.unlink()
    (Store().folder / f"{TINY_NAME}.pth").write_bytes(path.read_bytes())
    timm.create_model(TINY_NAME, pretrained=True)


def export(path: Path) -> None:
    command("export", path.with_suffix(".export"), "--model", "nat_m", "--checkpoint", path)


def local_folder(path: Path) -> None:
    """The file in a folder of the Hugging Face Hub's layout."""
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    name = "model.safetensors" if path.read_bytes()[8:9] == b"{" else "pytorch_model.bin"
    (folder / name).write_bytes(path.read_bytes())
    config = {"architecture": "nat_m", "pretrained_cfg": {}, "model_args": dict(family_of("nat_m").tiny)}
    (folder / "config.json").write_text(json.dumps(config))
    try:
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    finally:
        (folder / name).unlink()


#: What a file may be given to.
DOORS: dict[str, Callable[[Path], None]] = {
    "create": create,
    "verify": verify,
    "classes": lambda path: create(path, num_classes=7),
    "identify": lambda path: command("identify", path),
    "features": lambda path: create(path, features_only=True),
    "diff": lambda path: command("diff", path, path.with_name("good.pth")),
    "convert": lambda path: command("convert", path, "--model", "nat_m"),
    "validate": lambda path: load_model("nat_m", path),
    "export": export,
    "diff --model": lambda path: command("diff", path.with_name("good.pth"), path, "--model", "nat_m"),
    "store": put_into_the_store,
    "local-dir": local_folder,
    "load_into": lambda path: load_into(timm.create_model("nat_m"), path),
}


def sentence(text: str) -> bool:
    return text.endswith(".") and text.isprintable() and len(text) < 2000 and "Traceback" not in text.split("\\n")[0]


def check(path: Path, door: str, mark: Path, capsys) -> str:
    """Give a file to a door; returns what it was told, nothing where it loaded."""
    told = ""
    capsys.readouterr()
    try:
        DOORS[door](path)
    except (WeightsError, ModelError) as error:
        told = str(error)
        assert sentence(told), told
    for line in capsys.readouterr().err.splitlines():
        told = line.removeprefix("error: ")
        assert line.startswith("error: ") and sentence(told), line
    assert not mark.exists()
    return told


def run(files: dict[str, bytes], folder: Path, mark: Path, capsys, doors: int, first: int = 0) -> None:
    """Each file through so many doors in turn."""
    failed = []
    names = list(DOORS)
    for i, (name, data) in enumerate(files.items(), start=first):
        path = folder / f"{name}.pth"
        path.write_bytes(data)
        for k in range(doors):
            door = names[(i + k) % len(names)]
            try:
                check(path, door, mark, capsys)
            except Exception as error:
                failed.append(f"{name} given to {door}: {type(error).__name__}: {str(error)[:300]}")
        path.unlink()
    assert not failed, "\n".join(failed)


LOAD = {"a-integer-key", "attributes", "wrapped-attributes", "float8_e4m3fn", "float8_e5m2", "f8", "views", "repacked"}
LOAD |= {"float16", "bfloat16", "float64", "compressed"}


def test_hostile_files(folder, files, capsys):
    """Every file through one door, so that every door sees some of each kind."""
    run(files, folder, folder / "mark", capsys, doors=1)


@pytest.mark.parametrize("name", sorted(LOAD))
def test_odd_files_that_load(folder, files, name, capsys):
    path = folder / f"{name}.pth"
    path.write_bytes(files[name])
    assert check(path, "create", folder / "mark", capsys) == ""


def test_mutated_files(folder, capsys):
    run(dict(mutated(STATE, 36)), folder, folder / "mark", capsys, doors=1)


SIZES = r"has \d+ bytes and states \d+, which no file of weights does"
REASONS = {
    "bomb": SIZES,
    "huge-view": SIZES,
    "huge-shape": SIZES,
    "zeros": "holds a bytearray",
    "legacy-zeros": "holds a bytearray",
    "many": "holds 30000 tensors",
    "meta": "holds tensors without numbers",
    "quantised": "holds tensors that are quantised",
    "sparse": "holds tensors that are sparse or nested",
    "huge-sparse": SIZES,
    "complex": "holds tensors that are of type torch.complex64",
    "int8": "keys of another type .*: torch.int8 in the file, torch.float32 in the model",
    "integer-keys": r"holds no weights .* \(it has 0, 1, 2, ...\)",
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons(folder, files, name, capsys):
    path = folder / f"{name}.pth"
    path.write_bytes(files[name])
    assert re.search(REASONS[name], check(path, "create", folder / "mark", capsys))


@pytest.mark.parametrize("name", ["bomb", "zeros", "legacy-zeros"])
def test_what_would_take_memory_is_not_read(folder, files, name, monkeypatch, capsys):
    monkeypatch.setattr(torch, "load", None)
    test_reasons(folder, files, name, capsys)


@pytest.mark.extra
@pytest.mark.parametrize("first", range(len(DOORS)))
def test_hostile_files_through_every_door(folder, files, capsys, first):
    mark = folder / "mark"
    run(files, folder, mark, capsys, doors=1, first=first)
    run(dict(mutated(STATE, 400, seed=first + 1)), folder, mark, capsys, doors=1, first=first)
