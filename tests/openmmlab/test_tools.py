"""The command lines of detection and segmentation, on data sets written by hand: train, resume, test, predict, look."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image

from backbones.checkpoints import WeightsError
from backbones.dense import cli_look, cli_predict, cli_test, cli_train, runner
from backbones.dense.checkpoint import read
from backbones.dense.coco_check import read_categories
from backbones.dense.config import load_config
from backbones.dense.predict import draw_sample, make_visualizer
from tests.openmmlab.folders import COLOURS, SIDE, detection_config, segmentation_config, write_ade, write_coco


@dataclass
class Case:
    """A task's own data, config and finished run."""

    folder: Path
    config: Path
    data: Path
    metric: str

    @property
    def options(self) -> list[str]:
        return ["--data-root", str(self.data), "--classes", *COLOURS]

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def last(self) -> str:
        return (self.run / "last_checkpoint").read_text()

    def train(self, *more: str) -> int:
        return cli_train.main([str(self.config), *self.options, "--work-dir", str(self.run), *more])


def _detection(folder: Path) -> Case:
    return Case(folder, detection_config(folder / "mine.py"), write_coco(folder / "data"), "coco/bbox_mAP_50")


def _segmentation(folder: Path) -> Case:
    return Case(folder, segmentation_config(folder / "mine.py"), write_ade(folder / "data"), "mIoU")


CASES = {"detection": _detection, "segmentation": _segmentation}


@pytest.fixture(scope="module", params=CASES)
def trained(request, tmp_path_factory) -> Case:
    case = CASES[request.param](tmp_path_factory.mktemp(request.param))
    assert case.train() == 0
    return case


@pytest.fixture
def detection(tmp_path) -> Case:
    return _detection(tmp_path)


@pytest.fixture
def segmentation(tmp_path) -> Case:
    return _segmentation(tmp_path)


def _losses(run: Path) -> list[float]:
    lines = [json.loads(x) for file in run.glob("*/vis_data/scalars.json") for x in file.read_text().splitlines()]
    return [line["loss"] for line in sorted(lines, key=lambda line: line["step"]) if "loss" in line]


def test_training_learns(trained):
    losses = _losses(trained.run)
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])  # 0.55 to 0.69, as the random numbers of torch's versions
    assert not [path for path in trained.run.iterdir() if path.name.startswith(".")]


def test_testing_measures_what_training_did(trained, capsys, tmp_path):
    scalars = next(trained.run.glob("*/vis_data/scalars.json")).read_text().splitlines()
    measured = [row for row in map(json.loads, scalars) if trained.metric in row][-1]
    args = [str(trained.config), trained.last, *trained.options, "--work-dir", str(tmp_path)]
    assert cli_test.main(args) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics[trained.metric] == pytest.approx(measured[trained.metric], abs=1e-6)
    assert trained.metric in capsys.readouterr().out
    assert metrics[trained.metric] > 0


def test_resuming_goes_on(trained, tmp_path):
    case = Case(tmp_path, trained.config, trained.data, trained.metric)
    shutil.copytree(trained.run, case.run)  # as after a move: last_checkpoint names a file of the old folder
    (case.run / "last_checkpoint").write_text("/nowhere/" + Path(trained.last).name)
    length = "train_cfg.max_epochs=13" if "coco" in trained.metric else "train_cfg.max_iters=26"
    assert case.train("--resume", "--cfg-options", length) == 0
    before, after = _losses(trained.run), _losses(case.run)
    assert after[: len(before)] == before and len(after) == len(before) + 2
    assert after[-1] < np.mean(before[:3])


KILLER = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Killer(Hook):
    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 9:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("task", CASES)
def test_a_killed_training_goes_on_as_if_it_had_not_been(task, tmp_path):
    """Killed inside an epoch, with dropout, augmentation by workers, and gradients accumulated."""
    case = CASES[task](tmp_path)
    (tmp_path / "killer.py").write_text(KILLER)
    detection = task == "detection"
    length = "train_cfg.max_epochs=3" if detection else "train_cfg.max_iters=12"
    options = [length, "model.backbone.drop_path_rate=0.3", "optim_wrapper.accumulative_counts=2"]
    options += ["train_dataloader.batch_size=2"]  # four batches an epoch
    whole, killed = Case(tmp_path / "a", case.config, case.data, ""), Case(tmp_path / "b", case.config, case.data, "")
    assert whole.train("--cfg-options", *options) == 0

    options.append("train_dataloader.num_workers=2")
    config = tmp_path / "killed.py"
    config.write_text(
        """_base_ = "mine.py"
custom_imports = dict(imports=["backbones.dense", "killer"])
custom_hooks = [dict(type="Killer")]
"""
    )
    root = Path(runner.__file__).parents[2]
    command = [sys.executable, str(root / "tools/dense/train.py"), str(config), "--work-dir", str(killed.run)]
    command += [*case.options, "--save-every-steps", "7", "--cfg-options", *options]
    env = {**os.environ, "PYTHONPATH": f"{root}:{tmp_path}", "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    assert process.wait(timeout=300) == -signal.SIGKILL, (tmp_path / "log").read_text()[-3000:]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # workers that wait to hand their batch over
    assert Path(killed.last).name == "latest.pth"

    assert killed.train("--resume", "--save-every-steps", "7", "--cfg-options", *options) == 0
    assert len(_losses(whole.run)) == 12
    (killed.run / "2").mkdir()
    max(killed.run.glob("2*_*"), key=lambda path: path.name).rename(killed.run / "2/resumed")
    assert _losses(killed.run / "2") == _losses(whole.run)[-5:]
    assert not (killed.run / "latest.pth").exists()
    ends = [read(case.last) for case in (whole, killed)]
    for key, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][key]), key


def test_predicting_draws_and_tells(trained, tmp_path, capsys):
    images = next(path for path in (trained.data / "val2017", trained.data / "images/validation") if path.is_dir())
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "broken.jpg").write_bytes(b"no image")
    (bad / "empty.jpg").touch()
    inputs = [str(bad), str(images), "--score-thr", "0.05", "-o", str(tmp_path / "out")]
    assert cli_predict.main([str(trained.config), trained.last, *inputs, *trained.options]) == 1
    err = capsys.readouterr().err
    assert f"The image {bad / 'broken.jpg'} cannot be read (it is no image, or a part of one)" in err
    assert f"The image {bad / 'empty.jpg'} cannot be read (it is empty)" in err
    assert "2 of 10 images could not be predicted" in err
    told = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [Path(entry["image"]).name for entry in told] == sorted(path.name for path in images.iterdir())
    for entry in told:
        with Image.open(tmp_path / "out" / entry["picture"]) as picture, Image.open(entry["image"]) as image:
            assert picture.size == (512, 512)  # enlarged by a whole number
            drawn = np.asarray(picture.convert("RGB").resize(image.size, Image.Resampling.BOX)).astype(int)
            assert np.abs(drawn - np.asarray(image)).max() > 20  # something is drawn
        if "instances" in entry:
            for found in entry["instances"]:
                assert found["category"] in COLOURS and 0.05 <= found["score"] <= 1
                assert found["segmentation"]["size"] == [SIDE, SIDE]
        else:
            assert sum(entry["shares"].values()) == pytest.approx(1, abs=1e-4)
            with Image.open(tmp_path / "out" / entry["labels"]) as labels:
                counts = np.bincount(np.asarray(labels).ravel(), minlength=3) / SIDE**2
            assert entry["shares"] == {n: pytest.approx(c, abs=1e-4) for n, c in zip(COLOURS, counts) if c}


def test_curves_are_plotted(trained, capsys, tmp_path):
    assert cli_look.analyze([str(trained.run), "--out", str(tmp_path / "curves.png")]) == 0
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 800 and len(np.unique(np.asarray(picture.convert("L")))) > 20
    out = capsys.readouterr().out
    assert trained.metric in out and re.search(r"iterations\W+24\b", out)


def test_browsing_draws_annotations(trained, tmp_path):
    args = [str(trained.config), *trained.options, "-n", "3", "-o", str(tmp_path)]
    assert cli_look.browsing(args) == 0
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == 3
    with Image.open(pictures[0]) as picture:
        assert max(picture.size) == 512


def test_colours_may_be_lists(detection, tmp_path):
    cfg = load_config(detection.config)
    sample = DetDataSample()
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[8.0, 8.0, 40.0, 50.0]]), labels=torch.tensor([1]))
    visualizer = make_visualizer(cfg, {"classes": ("a", "b"), "palette": [[255, 0, 0], [0, 255, 0]]})
    draw_sample(visualizer, np.zeros((SIDE, SIDE, 3), np.uint8), sample, tmp_path / "a.png", draw_pred=False)
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    assert (pixels[:, 1] - pixels[:, [0, 2]].max(1)).max() > 150  # the second colour, green


def test_costs(trained, capsys):
    assert cli_look.flops([str(trained.config), *trained.options, "--size", "64"]) == 0
    out = capsys.readouterr().out
    assert "parameters of backbone" in out and "64 x 64" in out


def test_regions_are_read_from_channels_last_features(detection):
    """mmcv's RoIAlign reads memory, not strides."""
    cfg = load_config(detection.config, classes=list(COLOURS))
    model = runner.build_model(cfg)
    torch.manual_seed(0)
    image = torch.randn(1, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    boxes = torch.tensor([[0.0, 4.0, 6.0, 40.0, 50.0], [0.0, 0.0, 0.0, 20.0, 16.0]])
    with torch.no_grad():
        maps = model.extract_feat(image)
        found = model.roi_head.bbox_roi_extractor(maps[:1], boxes)
        expected = torchvision.ops.roi_align(maps[0], boxes, 7, 0.25, -1, aligned=True)
    torch.testing.assert_close(found, expected)


def test_weights_of_another_model(trained, tmp_path, capsys):
    other = CASES["segmentation" if "coco" in trained.metric else "detection"](tmp_path)
    args = [str(other.config), trained.last, *other.options, "--work-dir", str(tmp_path / "run")]
    assert cli_test.main(args) == 2
    assert re.search(r"of another model: .*give the config that it was trained with", capsys.readouterr().err)


def test_weights_for_another_number_of_classes(trained, tmp_path, capsys):
    images = str(next(trained.data.rglob("*.jpg")))
    args = [str(trained.config), trained.last, images, "-o", str(tmp_path), "--classes", "one", "two"]
    assert cli_predict.main(args) == 2
    assert "of another model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_starting_weights_of_another_model(trained, tmp_path, capsys):
    other = CASES["segmentation" if "coco" in trained.metric else "detection"](tmp_path)
    assert other.train("--cfg-options", f"load_from={trained.last}") == 2
    assert re.search(r"of another model: it lacks \d+ of \d+ weights", capsys.readouterr().err)


def test_starting_weights_for_other_classes(trained, tmp_path):
    """As fine-tuning on own data has it: only what tells the classes apart starts afresh."""
    case = Case(tmp_path, trained.config, trained.data, trained.metric)
    cfg = load_config(case.config, {"load_from": trained.last}, case.data, ["red", "green"], case.run)
    job = runner.build(cfg)
    job.load_or_resume()
    given, own = read(trained.last)["state_dict"], job.model.state_dict()
    fresh = {key for key in given if own[key].shape != given[key].shape}
    assert fresh and all(re.search("fc_cls|fc_reg|conv_logits|conv_seg", key) for key in fresh)
    assert all(torch.equal(own[key], given[key]) for key in given if key not in fresh)


@pytest.mark.parametrize("door", ["predict", "test", "load_from", "resume"])
def test_weights_that_are_not_finite(door, trained, tmp_path, capsys):
    checkpoint = read(trained.last)
    key = next(key for key in checkpoint["state_dict"] if "backbone" in key and key.endswith("weight"))
    checkpoint["state_dict"][key][:] = torch.nan
    broken = str(tmp_path / "broken.pth")
    torch.save(checkpoint, broken)
    case = Case(tmp_path, trained.config, trained.data, trained.metric)
    code = {
        "predict": lambda: cli_predict.main(
            [str(case.config), broken, str(case.data), "-o", str(tmp_path / "out"), *case.options]
        ),
        "test": lambda: cli_test.main([str(case.config), broken, *case.options, "--work-dir", str(case.run)]),
        "load_from": lambda: case.train("--cfg-options", f"load_from={broken}"),
        "resume": lambda: case.train("--resume", broken),
    }[door]()
    assert code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(rf"error: {broken} holds numbers that are not finite in 1 of \d+ weights \({key}\)", last), last


def test_resuming_from_weights_alone(trained, tmp_path, capsys):
    torch.save({"state_dict": read(trained.last)["state_dict"]}, tmp_path / "weights.pth")
    case = Case(tmp_path, trained.config, trained.data, trained.metric)
    assert case.train("--resume", str(tmp_path / "weights.pth")) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"weights.pth holds weights, but not the state of a training: .* load_from=FILE", last), last


def test_checkpoints_that_run_code_are_refused(detection, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": {}, "meta": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="Python objects"):
        read(tmp_path / "evil.pth")
    options = ["--cfg-options", f"load_from={tmp_path / 'evil.pth'}"]
    assert detection.train(*options) == 2
    assert not (tmp_path / "executed").exists()


BAD_DETECTION = {
    "nothing of that name": (
        "--cfg-options",
        ["model.type=MaskRCN"],
        "there is no model MaskRCN: did you mean MaskRCNN",
    ),
    "stages": ("--cfg-options", ["model.backbone.out_indices=[0,1,2,9]"], r"out_indices .* from 0 to 3"),
    "channels": ("--cfg-options", ["model.neck.in_channels=[1,2,3,4]"], r"gives \[32, 32, 64, 64\]"),
    "model": ("--cfg-options", ["model.backbone.model=nat_q"], "did you mean nat_"),
    "annotations": ("--data-root", ["elsewhere"], "annotations elsewhere/annotations/instances_train2017.json"),
    "names": ("--classes", ["red", "green", "purple"], "categories red, green, blue, but not purple"),
    "order": ("--classes", ["green", "red", "blue"], "in the order red, green, blue"),
    "twice": ("--classes", ["red", "red"], "name each once"),
    "weights": ("--cfg-options", ["load_from=nowhere.pth"], "nowhere.pth"),
    "checkpoint": ("--resume", ["nowhere.pth"], "no checkpoint nowhere.pth"),
}


@pytest.mark.parametrize("case", BAD_DETECTION)
def test_bad_detection(case, detection, capsys, monkeypatch):
    flag, values, message = BAD_DETECTION[case]
    monkeypatch.chdir(detection.folder)
    assert detection.train(flag, *values) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and re.search(message, last), last


#: Options that are wrong, and what is said of them.
WRONG_OPTIONS = {
    "modle.backbone=1": "the config has no modle: did you mean model?",
    "model.nek.out_channels=3": "model has no nek: did you mean neck?",
    "model.neck.out_chanels=3": "model.neck has no out_chanels: did you mean out_channels?",
    "model.backbone=3": r"model.backbone: it is a group of options \(type, .*\), not 3",
    "model.backbone.depth=(1,1)": "model.backbone has no depth: did you mean depths?",
    "model.test_cfg.rcnn.score_th=0.1": "model.test_cfg.rcnn has no score_th: did you mean score_thr?",
    "optim_wrapper.optimizer.type=AdamWW": "there is no optimizer AdamWW: did you mean AdamW?",
    "optim_wrapper.optimizer.lr=abc": "optim_wrapper.optimizer.lr: it is a number, such as 0.001, not 'abc'",
    "optim_wrapper.clip_grad.max_nrm=1": "optim_wrapper.clip_grad has no max_nrm: did you mean max_norm?",
    "train_dataloader.dataset.pipeline=abc": "train_dataloader.dataset.pipeline: it is a list, not 'abc'",
    "train_dataloader.sampler.type=Foo": "there is no data sampler Foo: it is DefaultSampler in the config",
    "train_dataloader.batchsize=2": "train_dataloader has no batchsize: did you mean batch_size?",
    "train_cfg.max_epoch=3": "train_cfg has no max_epoch: did you mean max_epochs?",
    "train_cfg.val_interval=0": "train_cfg.val_interval is a whole number from 1 on, not 0",
    "default_hooks.chekpoint.interval=1": "default_hooks has no chekpoint: did you mean checkpoint?",
    "default_hooks.checkpoint.intervall=1": "default_hooks.checkpoint has no intervall: did you mean interval?",
    "env_cfg.cudnn_benchmrk=True": "env_cfg has no cudnn_benchmrk: did you mean cudnn_benchmark?",
    "randomness.sed=1": "randomness has no sed: did you mean seed?",
    "auto_scale_lr.base_batch=3": "auto_scale_lr has no base_batch: did you mean base_batch_size?",
    "param_scheduler.7.end=9": "Index 7 exceeds the length",
    "custom_imports.imports=[nowhere]": "Cannot read config .*nowhere",
    "model.backbone.model": "'model.backbone.model' is no KEY=VALUE: write it like",
    "model.backbone.dims=(1,2": "cannot be read .*: correct it",
    # what building finds
    "model.backbone.init_cfg.type=Foo": 'init_cfg must be dict\\(type="Pretrained"',
    "model.backbone.pretrained=foo": "has no weights tagged 'foo'|Invalid pretrained tag \\(foo\\) for nat_m",
    "optim_wrapper.constructor=backbones.LayerDecayOptimWrapperConstructor optim_wrapper.paramwise_cfg.layerdecay=1": (
        "paramwise_cfg has no option layerdecay: it takes layer_decay"
    ),
    "train_dataloader.batch_size=0": "batch_size should be a positive integer value",
    "optim_wrapper.optimizer.lr=-1": "Invalid learning rate: -1",
    # what the first iteration finds
    "model.rpn_head.in_channels=3": "to have 3 channels, but got 32 channels",
}


@pytest.mark.parametrize("options", WRONG_OPTIONS)
def test_wrong_options(options, detection, capsys):
    assert detection.train("--cfg-options", *options.split()) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and re.search(WRONG_OPTIONS[options], last), last
    assert not detection.run.exists()


def test_new_options_that_are_read_are_taken(detection):
    """Of classes, of what these hand on, of hooks, and of parts that know no names."""
    new = {
        "model.backbone.frozen_stages": 1,
        "model.backbone.mlp_ratio": 2.0,
        "model.neck.add_extra_convs": "on_input",
        "model.test_cfg.rcnn.extra": 1,
        "optim_wrapper.accumulative_counts": 2,
        "optim_wrapper.dtype": "bfloat16",
        "optim_wrapper.paramwise_cfg.norm_decay_mult": 0.0,
        "train_dataloader.pin_memory": True,
        "default_hooks.checkpoint.save_best": "auto",
        "default_hooks.logger.priority": "LOW",
        "custom_hooks": [],
        "randomness.deterministic": True,
        "sync_bn": None,
        "load_from": "a.pth",
        "train_cfg.val_begin": 2,
        "train_dataloader.dataset.indices": 4,
    }
    cfg = load_config(detection.config, new)
    assert cfg.model.backbone.frozen_stages == 1 and cfg.train_dataloader.dataset.indices == 4


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta:x"])
def test_wrong_devices(device, trained, tmp_path, capsys):
    args = [str(trained.config), trained.last, str(trained.data), "-o", str(tmp_path / "out"), "--device", device]
    assert cli_predict.main([*args, *trained.options]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(rf"error: Device '{device}' cannot be used \(.*\): try --device cpu", last), last
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be_written(trained, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    config, data = str(trained.config), str(trained.data)
    case = Case(tmp_path, trained.config, trained.data, trained.metric)
    for flag, code in {
        "--out-dir": lambda: cli_predict.main([config, trained.last, data, "-o", str(file / "out"), *case.options]),
        "--work-dir": lambda: cli_train.main([config, *case.options, "--work-dir", str(file)]),
        "--out": lambda: cli_test.main([config, trained.last, *case.options, "--out", str(tmp_path)]),
        "-o": lambda: cli_look.analyze([str(trained.run), "--out", str(file / "curves.png")]),
    }.items():
        assert code() == 2, flag
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert re.search(r"error: .* is (no folder|a folder).*: name (another|a file) with --", last), last


def test_heads_and_classes_must_agree(detection, capsys):
    assert detection.train("--cfg-options", "model.roi_head.bbox_head.num_classes=3", "--classes", *COLOURS) == 0
    capsys.readouterr()
    args = [str(detection.config), "--data-root", str(detection.data), "--work-dir", str(detection.run)]
    more = ["--cfg-options", f"train_dataloader.dataset.metainfo.classes={tuple(COLOURS)}".replace(" ", "")]
    assert cli_train.main([*args, *more]) == 2
    assert "has 80 classes, but train_dataloader.dataset has 3 (red, green, blue)" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"no image", b""])
def test_unreadable_image(content, workers, detection, capsys):
    detection.data = write_coco(detection.folder / "more", count=40)
    image = detection.data / "train2017/000000000003.jpg"  # none of the sample that is opened beforehand
    image.write_bytes(content)
    assert detection.train("--cfg-options", f"train_dataloader.num_workers={workers}") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    reason = "it is no image, or a part of one" if content else "it is empty"
    assert last.startswith(f"error: The image {image} cannot be read ({reason}): replace it"), last


def test_bad_segmentation_maps(segmentation, capsys):
    path = segmentation.data / "annotations/training/ADE_00000002.png"
    Image.fromarray(np.full((SIDE, SIDE), 9, np.uint8)).save(path)
    assert segmentation.train() == 2
    assert re.search(r"00000002.png holds the number 9, but .* 3 classes, numbered 1 to 3", capsys.readouterr().err)
    path.write_bytes(b"no image")
    assert segmentation.train() == 2
    assert "cannot be read as an image" in capsys.readouterr().err
    shutil.rmtree(segmentation.data / "annotations")
    assert segmentation.train() == 2
    assert "is not a folder" in capsys.readouterr().err


def test_unknown_config(capsys):
    assert cli_train.main(["configs/detection/nat/mask-rcnn_nat-q_fpn_amp-ms-crop-3x_coco.py"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_categories_of_a_large_file(tmp_path):
    """They are found without reading what comes before and after."""
    path = tmp_path / "large.json"
    names = [f"{i} {'x' * 600}" for i in range(400)]
    filler = ", ".join('{"id": 1}' for _ in range(50_000))
    categories = json.dumps([{"id": i, "name": name} for i, name in enumerate(names)])
    path.write_text(f'{{"annotations": [{filler}], "categories": {categories}, "images": [{filler}]}}')
    assert read_categories(path) == names


def test_mixed_precision_configs_run_on_a_cpu():
    cfg = Config(dict(optim_wrapper=dict(type="AmpOptimWrapper", loss_scale="dynamic"), sync_bn="torch"))
    runner.adapt(cfg, amp=True)
    gpu = torch.cuda.is_available()
    assert cfg.optim_wrapper.type == ("AmpOptimWrapper" if gpu else "OptimWrapper")
    assert cfg.sync_bn == ("torch" if gpu else None)


def test_runs_of_one_process_are_kept_apart(tmp_path, monkeypatch):
    """Two of one name that begin within a second, which is as fine as mmengine tells them apart."""
    stopped = time.time()
    monkeypatch.setattr("mmengine.runner.runner.time", SimpleNamespace(**{**vars(time), "time": lambda: stopped}))
    jobs = []
    for task, make in CASES.items():
        (tmp_path / task).mkdir()
        case = make(tmp_path / task)
        cfg = load_config(case.config, {}, str(case.data), list(COLOURS), str(case.run))
        jobs.append(runner.build(cfg))
    assert jobs[0].timestamp == jobs[1].timestamp
    assert [type(job.visualizer).__name__ for job in jobs] == ["DetLocalVisualizer", "SegLocalVisualizer"]
    for job in jobs:
        job.logger.info("a line of this run")
        assert next(Path(job.log_dir).glob("*.log")).read_text().count("a line of this run") == 1


def test_two_processes_train_and_test(segmentation):
    """Over gloo where there is no GPU, which mmengine alone does not do."""
    root = Path(runner.__file__).parents[2]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    common = ["--work-dir", str(segmentation.run), *segmentation.options]

    def start(tool: str, *args: str) -> str:
        command = [*launch, str(root / f"tools/dense/{tool}.py"), str(segmentation.config), *args, *common]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    start("train")
    assert [path.name for path in sorted(segmentation.run.glob("*.pth"))] == ["iter_12.pth", "iter_24.pth"]
    start("test", segmentation.last)
    assert json.loads((segmentation.run / "metrics.json").read_text())["mIoU"] > 80
