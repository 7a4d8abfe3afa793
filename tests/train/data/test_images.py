"""Reading images as timm does, with the orientation and bit depth that files state, and policies at any level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform

from backbones.train.cli import predict, validate
from backbones.train.data.datasets import build_dataset
from backbones.train.data.images import convert_image
from backbones.train.data.loader import EvalLoader
from backbones.train.evaluation.predict import ImageFiles
from backbones.train.options.recipe import resolve
from tests.train.data.test_transforms import noise

SIDEWAYS = 6  # the camera was held upright: rows of the file are columns of the scene
ORIENTATION = 0x0112


@pytest.mark.parametrize(("kind", "suffix"), [("uint16", "png"), ("uint16", "tif"), (">u2", "tif"), ("int32", "pgm")])
@pytest.mark.parametrize(("in_chans", "mode"), [(3, "RGB"), (1, "L")])
def test_sixteen_bit_images_keep_their_greys(kind, suffix, in_chans, mode, tmp_path):
    values = np.array([[0, 255, 256, 1000, 32768, 65535]])
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(values.astype(kind)).save(path)
    [(image, _)] = list(ImageFiles([path], in_chans))
    assert image.mode == mode
    pixels = np.asarray(image).reshape(1, 6, -1)
    assert (pixels == pixels[..., :1]).all() and pixels[0, :, 0].tolist() == [0, 1, 1, 4, 128, 255]


def test_pixels_of_unknown_range_are_unreadable_not_wrong(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype="float32")).save(tmp_path / "a.tif")
    Image.fromarray(np.array([[0, 70000]], dtype="int32")).save(tmp_path / "b.tif")
    source = ImageFiles([tmp_path / "a.tif", tmp_path / "b.tif"])
    source.unreadable.log = tmp_path / "log.txt"
    assert [source.read(0), source.read(1)] == [None, None]
    assert (tmp_path / "log.txt").read_text().count("store it with 8 or 16 bits") == 2


def photographs(root, turned):
    """Two classes told apart by where the light is; ``turned`` files are stored sideways and say so."""
    for split in ("train", "val"):
        for label, name in enumerate(("left", "top")):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = np.full((24, 24, 3), 20 + number, dtype=np.uint8)
                pixels[:, :12] = 230 if label == 0 else pixels[:, :12]
                pixels[:12] = 230 if label == 1 else pixels[:12]
                image, exif = Image.fromarray(pixels), Image.Exif()
                if turned:
                    image, exif[ORIENTATION] = image.transpose(Image.Transpose.ROTATE_90), SIDEWAYS
                image.save(root / split / name / f"{number}.png", exif=exif)
    return root


def test_readers_leave_or_follow_the_orientation_alike(tmp_path):
    upright = build_dataset(str(photographs(tmp_path / "upright", turned=False)), "val")
    root = photographs(tmp_path / "turned", turned=True)
    files = [tmp_path / "turned" / "val" / name / f"{i}.png" for name in ("left", "top") for i in range(4)]
    for follow in (False, True):
        dataset = build_dataset(str(root), "val", exif_transpose=follow)
        torch_dataset = build_dataset("torch/folder", "val", data_dir=str(root), exif_transpose=follow)
        images = [np.asarray(image) for image, _ in dataset]
        for others in (torch_dataset, ImageFiles(files, exif_transpose=follow)):
            assert all(np.array_equal(image, np.asarray(other)) for image, (other, _) in zip(images, others))
        same = [np.array_equal(image, np.asarray(other)) for image, (other, _) in zip(images, upright)]
        assert all(same) if follow else not any(same)


def light_model(folder, **recipe):
    """A run whose model is right on upright images: it compares the light of the left with that of the top."""
    import timm
    from timm.models import register_model
    from torch import nn

    if not timm.is_model("light_for_tests"):

        @register_model
        def light_for_tests(pretrained=False, num_classes=2, **kwargs):
            class Light(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.scale = nn.Parameter(torch.ones(1))
                    self.num_classes, self.pretrained_cfg = num_classes, {}

                def forward(self, x):
                    side = x.shape[-1] // 2
                    light = [x[..., :, :side].mean((1, 2, 3)), x[..., :side, :].mean((1, 2, 3))]
                    return self.scale * torch.stack(light, 1)

            return Light()

    folder.mkdir()
    save_file({"scale": torch.ones(1)}, folder / "best.safetensors")
    values = {"model": "light_for_tests", "num_classes": 2, "img_size": 24, "crop_pct": 1.0, **recipe}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**values, "class_names": ["left", "top"]}))
    return str(folder)


def test_validate_and_predict_agree_on_turned_photographs(tmp_path, capsys):
    """Both leave the orientation alone by default, follow the flag, and follow the run that was trained with it."""
    data = photographs(tmp_path / "data", turned=True)
    plain, trained = light_model(tmp_path / "plain"), light_model(tmp_path / "trained", exif_transpose=True)
    for model, flags, right in (
        (plain, [], "50.00"),
        (plain, ["--exif-transpose"], "100.00"),
        (trained, [], "100.00"),
        (trained, ["--no-exif-transpose"], "50.00"),
    ):
        assert validate.main([model, "--data", str(data), "--device", "cpu", *flags]) == 0
        assert right in capsys.readouterr().out
        assert predict.main(["-m", model, str(data / "val"), "--device", "cpu", *flags]) == 0
        assert f"({right} %)" in capsys.readouterr().err


def test_training_takes_the_same_flag(tmp_path):
    from backbones.train.loop.components import build_data

    data = photographs(tmp_path / "data", turned=True)
    for follow in (False, True):
        options = resolve(None, {"data": str(data), "exif_transpose": follow})
        both = build_data(options)
        wanted = ImageFiles([data / "train" / "left" / "0.png"], exif_transpose=follow)[0][0]
        assert np.array_equal(np.asarray(both.train[0][0]), np.asarray(wanted))
        assert both.val.exif_transpose == follow


def test_conversion_is_pillows_elsewhere():
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        image = noise(mode)
        assert np.array_equal(np.asarray(convert_image(image, "RGB")), np.asarray(image.convert("RGB")))


def test_evaluation_reads_nothing_for_padding(tmp_path):
    """Every file is broken: all samples come as unreadable, none ends the iteration early."""
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"broken")
    source = ImageFiles([tmp_path / f"{number}.jpg" for number in range(3)])
    loader = EvalLoader(source, create_transform(8), 2)
    labels = [label for _, labels in loader for label in labels.tolist()]
    assert labels == [-1, -1, -1]
