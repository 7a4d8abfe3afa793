"""Scenes of digits: annotations agree with each other and the pixels, splits share nothing, folders are whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.progress import Progress

from backbones.dense import scenes
from backbones.dense.config import DenseError
from backbones.dense.scenes import Settings, Sources, compose, main, make_scenes

SMALL = Settings(train=6, val=4, size=(96, 128), seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("made") / "scenes"
    assert make_scenes(path, SMALL)
    return path


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _table(folder: Path, split: str) -> dict:
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))


def _decoded(segmentation: dict) -> np.ndarray:
    """An `(H, W)` mask from COCO's run lengths, down the columns."""
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def test_a_seed_gives_the_same_files_and_another_one_others(folder, tmp_path):
    make_scenes(tmp_path / "again", SMALL)
    assert _digests(tmp_path / "again") == _digests(folder)
    make_scenes(tmp_path / "other", Settings(train=6, val=4, size=(96, 128), seed=4))
    shared = set(_digests(tmp_path / "other").items()) & set(_digests(folder).items())
    assert not shared


def test_more_scenes_keep_the_first_ones(folder, tmp_path):
    make_scenes(tmp_path / "more", Settings(train=8, val=5, size=(96, 128), seed=3))
    more = _digests(tmp_path / "more")
    images = {name: digest for name, digest in _digests(folder).items() if name.startswith(("images", "masks"))}
    assert len(images) == 2 * (6 + 4)
    assert images.items() <= more.items()


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_both_forms_of_annotation_say_the_same(folder, split):
    table = _table(folder, split)
    assert len(table["images"]) == getattr(SMALL, split)
    assert [(c["id"], c["name"]) for c in table["categories"]] == [(i + 1, str(i)) for i in range(10)]
    assert [a["id"] for a in table["annotations"]] == list(range(1, len(table["annotations"]) + 1))
    assert {a["image_id"] for a in table["annotations"]} == {image["id"] for image in table["images"]}
    for image in table["images"]:
        pixels = np.asarray(Image.open(folder / "images" / split / image["file_name"]))
        numbers = np.asarray(Image.open(folder / "masks" / split / image["file_name"].replace(".jpg", ".png")))
        assert pixels.shape == (96, 128, 3) and numbers.shape == (image["height"], image["width"]) == (96, 128)
        assert pixels.dtype == numbers.dtype == np.uint8
        expected = np.full(numbers.shape, scenes.PHOTOGRAPH)
        for annotation in (a for a in table["annotations"] if a["image_id"] == image["id"]):
            mask = _decoded(annotation["segmentation"])
            assert mask.shape == numbers.shape
            assert (expected[mask] == scenes.PHOTOGRAPH).all()  # no pixel belongs to two digits
            expected[mask] = annotation["category_id"]
            assert annotation["area"] == mask.sum() > 0 and annotation["iscrowd"] == 0
            x, y, width, height = annotation["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            assert all(edge.any() for edge in (mask[y], mask[y + height - 1], mask[:, x], mask[:, x + width - 1]))
        assert (numbers == expected).all()


def test_run_lengths_of_known_masks():
    assert scenes.run_lengths(np.array([[0, 1], [1, 1]])) == [1, 3]
    assert scenes.run_lengths(np.array([[1, 0], [1, 1]])) == [0, 2, 1, 1]
    assert scenes.run_lengths(np.zeros((2, 3))) == [6]


def test_digits_stand_out_overlap_and_are_mostly_seen():
    sources = Sources("train")
    overlapping = 0
    for seed in range(20):
        scene = compose(sources, (160, 160), np.random.default_rng(seed))
        assert 2 <= len(scene.labels) <= scenes.DIGITS_PER_SCENE[1]
        boxes = []
        for i in range(len(scene.labels)):
            mask = scene.instances == i + 1
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes.append((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
            assert mask.sum() >= 40
            around = np.zeros_like(mask)
            around[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
            around &= scene.instances == 0
            if around.sum() > 40:
                distance = np.abs(scene.image[mask].mean(0) - scene.image[around].mean(0)).max()
                assert distance > 10, f"digit {i} of scene {seed} cannot be told from the photograph"
        pairs = [(a, b) for k, a in enumerate(boxes) for b in boxes[:k]]
        overlapping += any(scenes._overlap(a, b) > 0.05 for a, b in pairs)
    assert overlapping >= 10


def test_splits_share_neither_digits_nor_photographs():
    train, val = Sources("train"), Sources("val")
    ink = [{digit.tobytes() for digit in sources.digits} for sources in (train, val)]
    assert not ink[0] & ink[1]
    assert set(train.labels) == set(val.labels) == set(range(10))
    from sklearn.datasets import load_sample_images

    for whole, left, right in zip(load_sample_images().images, train.photographs, val.photographs):
        assert (np.concatenate([left, right], axis=1) == whole).all()


def test_scenes_that_are_there_are_left_alone(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    arguments = ["--out", str(folder), "--train", "6", "--val", "4", "--size", "96", "128", "--seed", "3"]
    assert main(arguments) == 0
    assert "already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_settings_need_overwrite(tmp_path, capsys):
    out = tmp_path / "scenes"
    arguments = ["--out", str(out), "--train", "1", "--val", "1", "--size", "64", "64"]
    assert main(arguments) == 0
    before = _digests(out)
    assert main([*arguments, "--seed", "1"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "seed 0" in message and "seed 1" in message and "--overwrite" in message
    assert _digests(out) == before
    assert main([*arguments, "--seed", "1", "--overwrite"]) == 0
    assert json.loads((out / scenes.MARKER).read_text())["seed"] == 1
    assert list(tmp_path.iterdir()) == [out]
    assert not set(before.values()) & set(_digests(out).values())


def test_an_incomplete_folder_is_named(tmp_path):
    settings = Settings(1, 1, (64, 64))
    make_scenes(tmp_path / "scenes", settings)
    lost = tmp_path / "scenes/masks/val/000001.png"
    lost.unlink()
    with pytest.raises(DenseError, match=r"masks/val/000001\.png is missing: give --overwrite"):
        make_scenes(tmp_path / "scenes", settings)
    assert make_scenes(tmp_path / "scenes", settings, overwrite=True)
    assert lost.is_file()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_touched(tmp_path, overwrite):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DenseError, match="something else than scenes: give another --out"):
        make_scenes(tmp_path, Settings(1, 1, (64, 64)), overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(DenseError, match="is a file"):
        make_scenes(tmp_path / "thesis.txt", Settings(1, 1, (64, 64)), overwrite)


@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_run_leaves_what_was_there(tmp_path, monkeypatch, existing):
    out = tmp_path / "scenes"
    if existing:
        make_scenes(out, Settings(1, 1, (64, 64)))
    before = _digests(tmp_path)
    write_split = scenes.write_split

    def interrupted(folder: Path, settings: Settings, split: str, progress: Progress) -> None:
        write_split(folder, settings, split, progress)
        if split == "val":
            raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "write_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_scenes(out, Settings(2, 2, (64, 64)), overwrite=True)
    assert _digests(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["scenes"] if existing else [])


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path):
    out = tmp_path / "scenes"
    make_scenes(out, Settings(1, 1, (64, 64)))
    before = _digests(tmp_path)
    with pytest.raises(FileNotFoundError), scenes.replacing_folder(out) as aside:
        aside.rmdir()
    assert _digests(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "0"], "--train must be from 1"),
        (["--val", "0"], "--val must be from 1"),
        (["--size", "32", "160"], "--size must be from 64"),
        (["--seed", "-1"], "--seed must be 0 or more"),
    ],
)
def test_bad_settings_are_named(tmp_path, capsys, arguments, message):
    assert main(["--out", str(tmp_path / "scenes"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
