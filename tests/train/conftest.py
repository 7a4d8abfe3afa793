"""One thread for the tests of training, and a folder of real JPEG files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models are tiny: more threads only get into each other's way, and sums would depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_photo_folder(root: Path, train: int = 12, val: int = 4) -> Path:
    """ImageNet layout of JPEGs: crops of scikit-learn's two photographs, and two of its digits, 4 classes."""
    from sklearn.datasets import load_digits, load_sample_images

    digits, photos = load_digits(), load_sample_images()
    for split, first, count in (("train", 0, train), ("val", train, val)):
        for name, photo in zip(("china", "flower"), photos.images):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(first, first + count):
                top, left = 20 * (i % 16), 37 * i % 480
                Image.fromarray(photo[top : top + 96, left : left + 96]).save(folder / f"{i:03d}.jpg", quality=90)
        for digit, name in ((3, "three"), (7, "seven")):
            folder = root / split / name
            folder.mkdir(parents=True)
            images = digits.images[digits.target == digit]
            for i in range(first, first + count):
                pixels = (images[i] * 255 / 16).astype("uint8")
                Image.fromarray(pixels).resize((64, 64)).convert("RGB").save(folder / f"{i:03d}.jpg", quality=90)
    return root


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory) -> Path:
    """48 images to train, 16 to evaluate, 4 classes."""
    return write_photo_folder(tmp_path_factory.mktemp("photos"))
