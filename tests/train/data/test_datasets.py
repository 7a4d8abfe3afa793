"""Reading data: the fixed digits split, class folders, schemes, broken images."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from backbones.train.data.datasets import (
    DataError,
    DigitsDataset,
    StreamSource,
    UnreadableImages,
    build_dataset,
    check_same_classes,
)


def test_digits_split_is_fixed_for_ever():
    train, val = DigitsDataset("train"), DigitsDataset("val")
    assert (len(train), len(val)) == (1442, 355)
    assert sorted(train.indices + val.indices) == list(range(1797))
    assert [val.labels.count(digit) for digit in range(10)] == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    digest = hashlib.sha256(json.dumps(val.indices).encode()).hexdigest()
    assert digest.startswith("ea907db21f50bbcb")


def test_digits_are_whole_images():
    data = DigitsDataset("val")
    image, label = data[0]
    assert (image.size, image.mode, label) == ((8, 8), "RGB", data.labels[0])
    assert DigitsDataset("val", in_chans=1)[0][0].mode == "L"
    assert max(np.asarray(DigitsDataset("train")[i][0]).max() for i in range(20)) == 255


def test_folder(photo_folder):
    train, val = build_dataset(str(photo_folder), "train"), build_dataset(str(photo_folder), "val")
    check_same_classes(train, val)
    assert train.class_names == ["china", "flower", "seven", "three"]
    assert (len(train), len(val)) == (48, 16)
    image, label = train[0]
    assert (image.mode, image.size, label) == ("RGB", (96, 96), 0)
    assert train.filename(0).endswith("china/000.jpg")


def test_class_folders_that_differ_are_an_error(photo_folder, tmp_path):
    root = shutil.copytree(photo_folder, tmp_path / "data")
    (root / "val" / "three").rename(root / "val" / "thre")
    with pytest.raises(DataError, match=r"only in train: three; only in val: thre"):
        check_same_classes(build_dataset(str(root), "train"), build_dataset(str(root), "val"))


@pytest.mark.parametrize(
    ("data", "split", "message"),
    [
        ("nowhere", "train", "does not exist"),
        (None, "tarin", "Unknown split"),
        (".", "train", "no folder for the split"),
    ],
)
def test_data_that_is_not_there(data, split, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        build_dataset(data, split)


def test_torchvision_scheme(photo_folder):
    data = build_dataset("torch/folder", "train", data_dir=str(photo_folder))
    assert len(data) == 48 and data.class_names == ["china", "flower", "seven", "three"]
    assert data[0][0].mode == "RGB"


def test_tar_of_a_split(photo_folder, tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(photo_folder / "train", arcname="train")
    data = build_dataset(str(tmp_path), "train")
    assert len(data) == 48 and data.class_names == ["china", "flower", "seven", "three"]
    assert data[47][0].size == (64, 64)


def write_shards(folder, photo_folder, shards=2):
    """The photo folder's training split as webdataset shards, with the index that timm reads."""
    source = build_dataset(str(photo_folder), "train")
    names = []
    for shard in range(shards):
        names.append(f"train-{shard:04d}.tar")
        with tarfile.open(folder / names[-1], "w") as tar:
            for index in range(shard, len(source), shards):
                image, label = source[index]
                buffer = io.BytesIO()
                image.save(buffer, "JPEG")
                for suffix, content in (("jpg", buffer.getvalue()), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{index:05d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    split = {"name": "train", "filenames": names, "shard_lengths": [len(source) // shards] * shards}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": {**split, "num_samples": len(source)}}}))


def test_webdataset_shards(photo_folder, tmp_path):
    write_shards(tmp_path, photo_folder)
    data = build_dataset("wds/photos", "train", data_dir=str(tmp_path))
    assert isinstance(data, StreamSource)
    labels = [label for image, label in data if image.mode == "RGB"]
    assert sorted(labels) == sorted([0, 1, 2, 3] * 12)


def damage(folder, count):
    files = sorted((folder / "train" / "china").glob("*.jpg"))[:count]
    for number, file in enumerate(files):
        file.write_bytes(b"" if number == 0 else b"no image" if number == 1 else file.read_bytes()[:700])
    return files


def test_unreadable_images_are_counted_once_named_and_skipped(photo_folder, tmp_path):
    root = shutil.copytree(photo_folder, tmp_path / "data")
    files = damage(root, 3)
    data = build_dataset(str(root), "train")
    data.unreadable = UnreadableImages(len(data), limit=3, log=tmp_path / "log.txt")
    for _ in range(2):
        for index in range(3):
            assert data[index][1] == -1
            assert np.array_equal(data.read_next(index)[0], data[3][0])
    assert data.unreadable.count == 3
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(file) for file in files]


def test_too_many_unreadable_images_stop_the_run(photo_folder, tmp_path):
    root = shutil.copytree(photo_folder, tmp_path / "data")
    damage(root, 3)
    data = build_dataset(str(root), "train")
    data.unreadable = UnreadableImages(len(data), limit=2)
    with pytest.raises(DataError, match=r"3 images cannot be read, more than the 2 that --max-unreadable allows"):
        data.read_next(0)


def test_channels():
    with pytest.raises(DataError, match="in_chans is 2"):
        DigitsDataset("train", in_chans=2)


def test_images_of_other_modes_become_rgb(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        for mode in ("L", "RGBA", "P", "1", "CMYK"):
            Image.new(mode, (9, 7)).save(tmp_path / split / "a" / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}")
    data = build_dataset(str(tmp_path), "train")
    assert [image.mode for image, _ in data] == ["RGB"] * 5
