"""What is wrong with data is said before a run, a sentence each, with file and id."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.dense import cli_train
from backbones.dense.config import DenseError, load_config
from backbones.dense.data_check import check, problems
from backbones.dense.reading import Reader
from tests.openmmlab.folders import COLOURS, SIDE, detection_config, segmentation_config, write_ade, write_coco
from tests.openmmlab.test_config_data import _write_panoptic


def _coco(folder: Path, change) -> Path:
    """A COCO file that a function has changed."""
    data = write_coco(folder / "data", count=3)
    path = data / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return data


def _detection(folder: Path, data: Path):
    return load_config(detection_config(folder / "mine.py"), {}, data, list(COLOURS), folder / "run")


def _without(key: str, kind: str = "annotations"):
    return lambda content: content[kind][1].pop(key)


def _with(key: str, value, kind: str = "annotations"):
    return lambda content: content[kind][1].__setitem__(key, value)


NAN = math.nan
#: What is done to a sound file, and what is said of it.
WRONG = {
    "no segmentation": (_without("segmentation"), r"annotation 2 \(image 000000000000.jpg\) has no segmentation"),
    "empty segmentation": (_with("segmentation", []), r"annotation 2 .* has an empty segmentation"),
    "no area": (_without("area"), r"annotation 2 .* has no area"),
    "no bbox": (_without("bbox"), r"annotation 2 .* has no bbox"),
    "empty bbox": (_with("bbox", []), r"annotation 2 .* has no bbox"),
    "box of 3": (_with("bbox", [1, 2, 3]), r"annotation 2 .* has a bbox of 3 numbers: write x, y, width and height"),
    "NaN box": (_with("bbox", [1, 2, NAN, 4]), r"annotation 2 .* has the bbox \[1, 2, nan, 4\]"),
    "negative box": (_with("bbox", [1, 2, -3, 4]), r"annotation 2 .* has the bbox \[1, 2, -3, 4\]"),
    "box of words": (_with("bbox", ["1", 2, 3, 4]), r"annotation 2 .* has the bbox"),
    "no iscrowd": (_without("iscrowd"), r"annotation 2 .* has no iscrowd: write 0, or 1"),
    "iscrowd null": (_with("iscrowd", None), r"annotation 2 .* has the iscrowd"),
    "polygon of 4": (_with("segmentation", [[1, 2, 3, 4]]), r"annotation 2 .* has a polygon of 4 numbers"),
    "odd polygon": (_with("segmentation", [[1, 2, 3, 4, 5, 6, 7]]), r"annotation 2 .* has a polygon of 7 numbers"),
    "NaN polygon": (
        _with("segmentation", [[1, 2, 3, 4, 5, NAN]]),
        r"annotation 2 .* a polygon with values that are no",
    ),
    "half run length": (_with("segmentation", {"counts": "a"}), r"annotation 2 .* without counts or size"),
    "unknown image": (_with("image_id", 77), r"annotation 2 is of the image 77, which is not in the list of images"),
    "unknown category": (_with("category_id", 7), r"annotation 2 .* is of the category 7, which is not in the list"),
    "equal annotation ids": (_with("id", 1), r"2 entries have the annotation id 1: number them apart"),
    "no annotation id": (_without("id"), r"annotation number 2 of the list has no id"),
    "equal image ids": (_with("id", 0, "images"), r"2 entries have the image id 0: number them apart"),
    "no height": (_without("height", "images"), r"image 1 \(000000000001.jpg\) has no height"),
    "height of 0": (_with("height", 0, "images"), r"image 1 .* has the height 0"),
    "no width": (_without("width", "images"), r"image 1 .* has no width"),
    "no file name": (_without("file_name", "images"), r"image 1 \(without\) has no file_name"),
    "another size": (
        _with("height", 50, "images"),
        r"image 1 .* is stated to have 50 x 64 pixels \(height x width\), but its file has 64 x 64",
    ),
    "missing file": (_with("file_name", "a.jpg", "images"), r"the file of image 1 \(a.jpg\) is not in .*train2017"),
    "no images": (lambda content: content.__setitem__("images", []), r"has an empty list of images"),
    "no annotations": (lambda content: content.__setitem__("annotations", []), r"has an empty list of annotations"),
    "images as numbers": (lambda content: content.__setitem__("images", [1]), r"has no list of images"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_annotations(case, tmp_path):
    change, message = WRONG[case]
    cfg = _detection(tmp_path, _coco(tmp_path, change))
    with pytest.raises(DenseError) as caught:
        check(cfg, ["train", "val"])
    sentence = str(caught.value)
    assert re.search(message, sentence), sentence
    assert "instances_train2017.json" in sentence and sentence.endswith(".") and "\n" not in sentence
    check(cfg, ["val"])


def test_masks_are_asked_for_where_they_are_read(tmp_path):
    cfg = _detection(tmp_path, _coco(tmp_path, _without("segmentation")))
    cfg.train_dataloader.dataset.pipeline[1]["with_mask"] = False
    assert check(cfg, ["train"]) == []


def test_boxes_that_mmdet_passes_by_are_remarked_on(tmp_path):
    """As COCO's own files have them."""
    cfg = _detection(tmp_path, _coco(tmp_path, _with("bbox", [3, 4, 0.5, 10])))
    (remark,) = check(cfg, ["train"])
    assert "1 of 9 annotations are left out" in remark and "annotation 2" in remark


def test_images_turned_by_exif_have_the_size_that_loaders_see(tmp_path):
    def stated(content):
        content["images"][1].update(height=40, width=20)

    data = _coco(tmp_path, stated)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(data / "train2017/000000000001.jpg", exif=exif)
    check(_detection(tmp_path, data), ["train"])


@pytest.mark.parametrize("flags", [[], ["--check-data"]])
def test_all_problems_are_reported(flags, tmp_path, capsys):
    def spoil(content):
        for change in ("no area", "unknown category", "polygon of 4", "no height", "missing file"):
            WRONG[change][0](content)

    data = _coco(tmp_path, spoil)
    (data / "val2017/000000000002.jpg").write_bytes(b"")
    config = str(detection_config(tmp_path / "mine.py"))
    options = ["--data-root", str(data), "--classes", *COLOURS, "--work-dir", str(tmp_path / "run")]
    code = cli_train.main([config, *options, *flags])
    out, err = capsys.readouterr()
    assert not (tmp_path / "run").exists()
    if not flags:
        assert code == 2 and err.count("error: ") == 1
        return
    assert code == 1 and "6 problems in the data of train, val" in err
    assert len(out.splitlines()) == 6
    for message in ("has no area", "the category 7", "a polygon of 4", "no height", "image 1 .* is not in", "is empty"):
        assert re.search(message, out), message


def test_sound_data_have_no_problem(tmp_path, capsys):
    for make, write in ((detection_config, write_coco), (segmentation_config, write_ade)):
        folder = tmp_path / make.__name__
        folder.mkdir()
        options = ["--data-root", str(write(folder / "data", count=3)), "--classes", *COLOURS]
        assert cli_train.main([str(make(folder / "mine.py")), *options, "--check-data"]) == 0
        assert "no problems in the data of train, val" in capsys.readouterr().err


def _maps(folder: Path, change) -> tuple[object, Path]:
    data = write_ade(folder / "data", count=3)
    change(data / "images/training", data / "annotations/training")
    return load_config(segmentation_config(folder / "mine.py"), {}, data, list(COLOURS), folder / "run"), data


def _map(pixels: np.ndarray):
    return lambda images, maps: Image.fromarray(pixels).save(maps / "ADE_00000001.png")


WRONG_MAPS = {
    "another size": (
        _map(np.ones((SIDE, 20), np.uint8)),
        r"The map .*00000001.png has 64 x 20 pixels .* its image .*00000001.jpg 64 x 64",
    ),
    "colours": (_map(np.ones((SIDE, SIDE, 3), np.uint8)), r"The map .*00000001.png is a picture of colours"),
    "number": (_map(np.full((SIDE, SIDE), 9, np.uint8)), r"00000001.png holds the number 9, but .* 3 classes"),
    "map without image": (
        lambda images, maps: (images / "ADE_00000001.jpg").unlink(),
        r"The map .*00000001.png has no image .jpg of its name in .*images/training",
    ),
    "image without map": (
        lambda images, maps: (maps / "ADE_00000001.png").unlink(),
        r"The image .*00000001.jpg has no map .*00000001.png",
    ),
    "empty image": (
        lambda images, maps: (images / "ADE_00000001.jpg").write_bytes(b""),
        r"The image .*00000001.jpg cannot be read: it is empty",
    ),
    "all ignored": (
        lambda images, maps: [
            Image.fromarray(np.full((SIDE, SIDE), value, np.uint8)).save(maps / f"ADE_0000000{i}.png")
            for i, value in enumerate((0, 255, 0))
        ],
        r"The map .*00000000.png has no pixel of any class",
    ),
}


@pytest.mark.parametrize("case", WRONG_MAPS)
def test_wrong_maps(case, tmp_path):
    change, message = WRONG_MAPS[case]
    cfg, _ = _maps(tmp_path, change)
    with pytest.raises(DenseError, match=message) as caught:
        check(cfg, ["train", "val"])
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_map_that_is_ignored_is_a_remark_and_in_the_report(tmp_path):
    cfg, data = _maps(tmp_path, _map(np.zeros((SIDE, SIDE), np.uint8)))
    path = data / "annotations/training/ADE_00000001.png"
    (remark,) = check(cfg, ["train"])
    assert remark == f"1 of 3 maps looked at have no pixel of a class, such as {path}"
    (found,) = problems(cfg, ["train"], Reader(whole=True), [])
    assert found.startswith(f"The map {path} has no pixel of any class")


def _panoptic(folder: Path):
    from backbones.dense.config_table import CONFIGS
    from backbones.dense.panoptic import ADE20KPanoptic

    cfg = load_config(next(CONFIGS.glob("detection/dinat/*ade20k-panoptic.py")), {}, folder)
    cfg.val_evaluator = None
    meta, options = ADE20KPanoptic.METAINFO, cfg.val_dataloader.dataset
    images, maps = folder / options.data_prefix.img, folder / options.data_prefix.seg
    images.mkdir(parents=True)
    Image.new("RGB", (128, 96)).save(images / "a.jpg")
    path = folder / options.ann_file
    _write_panoptic(path, maps, tuple(meta["thing_classes"]), tuple(meta["stuff_classes"]), True)
    return cfg, path, maps / "a.png"


def _segment(key: str, value):
    return lambda content: content["annotations"][0]["segments_info"][1].__setitem__(key, value)


WRONG_PANOPTIC = {
    "equal ids": (_segment("id", 1), r"annotation of image 1 \(a.jpg\) has several segments of the id 1"),
    "category": (_segment("category_id", 999), r"segment 2 of image 1 \(a.jpg\) is of the category 999"),
    "box": (_segment("bbox", [1]), r"segment 2 of image 1 \(a.jpg\) has a bbox of 1 numbers"),
    "no map": (lambda c: c["annotations"][0].__setitem__("file_name", "b.png"), r"the map .*b.png is not there"),
    "image": (lambda c: c["annotations"][0].__setitem__("image_id", 5), r"image 1 \(a.jpg\) has no annotation"),
}


@pytest.mark.parametrize("case", WRONG_PANOPTIC)
def test_wrong_panoptic_annotations(case, tmp_path):
    cfg, path, _ = _panoptic(tmp_path)
    assert list(problems(cfg, ["val"], Reader(whole=True), [])) == []
    content = json.loads(path.read_text())
    change, message = WRONG_PANOPTIC[case]
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DenseError, match=message):
        check(cfg, ["val"])


def test_wrong_panoptic_maps(tmp_path):
    cfg, path, drawn = _panoptic(tmp_path)
    pixels = np.asarray(Image.open(drawn)).copy()
    pixels[pixels[..., 0] == 2] = (9, 0, 0)
    Image.fromarray(pixels).save(drawn)
    first, second = problems(cfg, ["val"], Reader(whole=True), [])
    assert f"{drawn} holds the segment 9" in first and "does not hold the segment 2" in second
    Image.fromarray(pixels[:50]).save(drawn)
    with pytest.raises(DenseError, match=rf"{drawn} has 50 x 128 pixels .* image 1 \(a.jpg\) of {path} 96 x 128"):
        check(cfg, ["val"])
