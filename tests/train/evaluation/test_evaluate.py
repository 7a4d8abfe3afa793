from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from sklearn import metrics
from torch import nn

from backbones.train.cli import validate
from backbones.train.data.datasets import DataError, DigitsDataset
from backbones.train.evaluation.evaluate import (
    Forward,
    evaluate,
    evaluation_transform,
    match_classes,
    open_real_labels,
    read_valid_labels,
    write_json,
)
from backbones.utils.failures import is_out_of_memory

CPU = torch.device("cpu")


class Scores(nn.Module):
    """Takes its (B, classes, 1, 1) input for the logits."""

    def forward(self, x):
        return x.flatten(1)


class Hungry(Scores):
    """Runs out of memory above `limit` images, the way torch says so."""

    def __init__(self, limit: int, error: Exception | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        self.seen: list[int] = []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.limit:
            raise self.error
        return super().forward(x)


def scores(count=200, classes=8, seed=0):
    """Logits as images and labels that agree with them in part, in batches of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes - 1, (count,), generator=generator)  # the last class never occurs
    logits = torch.randn(count, classes, generator=generator) + 1.5 * nn.functional.one_hot(labels, classes)
    return logits, labels


def batches(logits, labels, size=64):
    return list(zip(logits[:, :, None, None].split(size), labels.split(size)))


def forward(model=None, **kwargs):
    return Forward(model or Scores(), CPU, **kwargs)


def test_figures_equal_scikit_learn():
    logits, labels = scores()
    result = evaluate(forward(), batches(logits, labels))
    predicted = logits.argmax(1)
    names = [str(i) for i in range(8)]
    assert result.images == 200
    assert result.top1 == pytest.approx(100 * metrics.accuracy_score(labels, predicted))
    assert result.top5 == pytest.approx(100 * metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(8)))
    probabilities = logits.double().softmax(1)
    assert result.loss == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(8)), rel=1e-9)
    assert np.array_equal(result.confusion(), metrics.confusion_matrix(labels, predicted, labels=range(8)))
    expected = metrics.precision_recall_fscore_support(labels, predicted, labels=range(8), zero_division=0)
    rows = result.per_class(names)
    for values, key in zip(expected, ("precision", "recall", "f1", "support")):
        scale = 1 if key == "support" else 100
        assert [row[key] for row in rows] == pytest.approx((scale * values).tolist(), abs=1e-4)
    assert rows[7]["support"] == 0
    assert result.images_per_second > 0


def test_figures_do_not_depend_on_batches():
    logits, labels = scores()
    a, b = (evaluate(forward(), batches(logits, labels, size)) for size in (7, 200))
    assert (a.top1, a.top5, a.loss) == pytest.approx((b.top1, b.top5, b.loss), rel=1e-12)


def test_top5_needs_five_classes():
    logits, labels = scores(classes=4)
    assert evaluate(forward(), batches(logits, labels)).top5 is None


def test_unreadable_images_are_left_out():
    logits, labels = scores(count=50)
    holes = labels.clone()
    holes[[0, 17, 49]] = -1
    kept = holes >= 0
    result = evaluate(forward(), batches(logits, holes, 16))
    without = evaluate(forward(), batches(logits[kept], labels[kept], 16))
    assert (result.unreadable, result.images) == (3, 47)
    assert (result.top1, result.loss) == pytest.approx((without.top1, without.loss), rel=1e-12)
    with pytest.raises(DataError, match="no readable image"):
        evaluate(forward(), batches(logits, torch.full((50,), -1)))


def test_a_label_beyond_the_outputs_is_an_error():
    logits, labels = scores(count=4)
    labels[2] = 8
    with pytest.raises(DataError, match="label 8"):
        evaluate(forward(), batches(logits, labels))


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: tried 9 bytes"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error):
    logits, labels = scores(count=40)
    said = []
    model = Hungry(5, error)
    result = evaluate(forward(model, say=said.append), batches(logits, labels, 16))
    whole = evaluate(forward(), batches(logits, labels, 16))
    assert torch.equal(result.predictions, whole.predictions)
    assert result.loss == pytest.approx(whole.loss, rel=1e-12)
    assert result.piece == 4
    assert len(said) == 2
    assert "16 images" in said[0]
    assert "going on with 8" in said[0]
    assert max(model.seen[3:]) <= 4  # later batches keep what fitted


def test_out_of_memory_with_one_image_and_other_errors_pass_through():
    images = torch.zeros(4, 3, 1, 1)
    with pytest.raises(torch.OutOfMemoryError):
        forward(Hungry(0), say=lambda _: None)(images)
    broken = Hungry(0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes"):
        forward(broken)(images)
    assert broken.seen == [4]  # not tried again in pieces
    assert not is_out_of_memory(ValueError("out of memory"))


def test_tta_averages_the_probabilities_of_both_sides():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=6).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        mean = (model(images).softmax(1) + model(images.flip(-1)).softmax(1)) / 2
    torch.testing.assert_close(forward(model, tta=True)(images).softmax(1), mean)
    assert not torch.allclose(forward(model)(images).softmax(1), mean)


@pytest.mark.parametrize(("crops", "tta"), [(5, False), (10, False), (5, True)])
def test_several_crops_are_averaged(crops, tta):
    config = {"input_size": (3, 24, 24), "crop_pct": 0.75, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    pixels = (torch.rand(40, 48, 3) * 255).byte().numpy()
    views = evaluation_transform(config, crops)(Image.fromarray(pixels))
    assert views.shape == (crops, 3, 24, 24)
    assert torch.equal(views[4], evaluation_transform(config)(Image.fromarray(pixels)))  # the centre
    if crops == 10:
        assert torch.equal(views[5:].flip(-1)[4], views[4])
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 6)).eval()
    logits = Forward(model, torch.device("cpu"), tta=tta)(views[None])
    every = torch.cat([views, views.flip(-1)]) if tta else views
    assert torch.allclose(logits.softmax(-1)[0], model(every).softmax(-1).mean(0), atol=1e-6)


def test_valid_labels_pick_outputs(tmp_path):
    file = tmp_path / "valid.txt"
    file.write_text("7\n2\n")
    assert read_valid_labels(file, 10, 2).tolist() == [7, 2]
    for text, classes, message in (
        ("7\n12\n", 2, "0 to 9"),
        ("7\n", 2, "names 1 outputs"),
        ("cat\n", 1, "one index a line"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            read_valid_labels(file, 10, classes)


def test_mixed_precision_and_channels_last_stay_close():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=6).eval()
    images = torch.randn(3, 3, 32, 32)
    plain = forward(model)(images)
    half = forward(model, amp_dtype=torch.bfloat16)(images)
    assert half.dtype == torch.float32
    assert not torch.equal(half, plain)
    torch.testing.assert_close(half, plain, rtol=0.1, atol=0.05)
    torch.testing.assert_close(forward(model, channels_last=True)(images), plain, rtol=1e-4, atol=1e-4)


def test_classes_are_matched_by_name():
    model = ["a", "b", "c", "d"]
    assert match_classes(model, model, 4) == (None, "")
    assert match_classes([], model, 4) == (None, "")
    outputs, note = match_classes(["d", "b"], model, 4)
    assert outputs.tolist() == [3, 1]
    assert "2 of 4" in note
    assert match_classes(["b", "a", "d", "c"], model, 4)[0].tolist() == [1, 0, 3, 2]
    assert match_classes(["p", "q", "r", "s"], model, 4)[0] is None
    with pytest.raises(DataError, match="4 outputs and digits has 3 classes"):
        match_classes(["p", "q", "r"], model, 4, "digits")


def test_a_subset_of_classes_is_judged_among_itself():
    logits, labels = scores()
    outputs = torch.tensor([6, 2, 0])
    pick = torch.isin(labels, outputs)
    own = torch.tensor([outputs.tolist().index(i) for i in labels[pick].tolist()])
    result = evaluate(forward(), batches(logits[pick], own), outputs=outputs)
    expected = logits[pick][:, outputs].argmax(1)
    assert result.num_classes == 3
    assert torch.equal(result.predictions, expected)


REAL = [[0], [1, 2], [], [7], [3], [4, 5]]


@pytest.fixture
def real_file(tmp_path):
    return write_json(tmp_path / "real.json", REAL)


def test_real_labels(real_file):
    names = [f"some/where/ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(6)]
    order = [3, 0, 2, 4, 5, 1]  # folders sort the files by class, not by number
    said = [7, 1, 0, 6, 5, 2]  # right, wrong, no label, unreadable below, right, right
    logits = nn.functional.one_hot(torch.tensor(said), 8).float() + torch.linspace(0.5, 0, 8)
    labels = torch.tensor([7, 0, 0, -1, 4, 1])
    real = open_real_labels(real_file, [names[i] for i in order])
    result = evaluate(forward(), batches(logits, labels, 4), real=real)
    assert result.real_top1 == pytest.approx(100 * 3 / 4)
    assert result.real_top5 == pytest.approx(100)  # the wrong one says 1, then 0
    assert result.top1 == pytest.approx(100 * 2 / 5)


def test_real_labels_that_do_not_belong(real_file, tmp_path):
    names = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(6)]
    with pytest.raises(DataError, match="labels 6 images and the data has 5"):
        open_real_labels(real_file, names[:5])
    with pytest.raises(DataError, match=r"but the data has cat\.jpg"):
        open_real_labels(real_file, [*names[:5], "cat.jpg"])
    with pytest.raises(DataError, match="list of lists"):
        open_real_labels(write_json(tmp_path / "not.json", {"a": 1}), names)
    with pytest.raises(DataError, match="Cannot read"):
        open_real_labels(tmp_path / "absent.json", names)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of random ten-class models on digits-like recipes."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("test_resnet", "test_vit")):
        torch.manual_seed(seed)
        model = timm.create_model(name, num_classes=10, **({"img_size": 32} if name == "test_vit" else {}))
        (root / name).mkdir()
        save_file(model.state_dict(), root / name / "best.safetensors")
        recipe = {"model": name, "num_classes": 10, "in_chans": 3, "img_size": 32, "crop_pct": 1.0, "data": None}
        recipe["class_names"] = [str(i) for i in range(10)]
        (root / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return root


def test_command_line_measures_several_models(runs, tmp_path, capsys):
    specs = [str(runs / "test_resnet"), str(runs / "test_vit" / "best.safetensors")]
    out = tmp_path / "out"
    flags = ["--results-file", str(out / "table"), "--per-class", str(out / "classes.csv"), "--device", "cpu"]
    assert validate.main([*specs, *flags, "--confusion", str(out / "c.png"), "-b", "100"]) == 0
    rows = json.loads((out / "table.json").read_text())
    with open(out / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [row["model"] for row in table] == specs
    assert [float(row["top1"]) for row in table] == [row["top1"] for row in rows]
    assert {row["images"] for row in rows} == {355}
    assert all(0 <= row["top1"] <= row["top5"] <= 100 and row["loss"] > 0 and row["img_per_s"] > 0 for row in rows)
    assert all(len(row["sha256"]) == 64 for row in rows)
    printed = capsys.readouterr()
    assert f"{rows[0]['top1']:.2f}" in printed.out
    assert "100.0 %" in printed.err  # the load report
    for kind, suffix in (("classes", "csv"), ("c", "png")):
        assert len(list(out.glob(f"{kind}-*.{suffix}"))) == 2
    with open(next(out.glob("classes-*test_resnet.csv")), newline="") as file:
        classes = list(csv.DictReader(file))
    right = sum(float(row["recall"]) / 100 * int(row["support"]) for row in classes)
    assert 100 * right / 355 == pytest.approx(rows[0]["top1"], abs=1e-2)
    assert not list(out.glob(".*"))


def test_command_line_of_timm_on_part_of_the_classes(runs, tmp_path):
    """Positional data, --valid-labels, and several crops; two of the digits' classes, judged among themselves."""
    digits = DigitsDataset("val")
    for index in range(60):
        image, label = digits._read(index)
        if label in (3, 8):
            folder = tmp_path / "data" / "val" / {3: "b-three", 8: "a-eight"}[label]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{index}.png")
    (tmp_path / "valid.txt").write_text("8\n3\n")
    table = tmp_path / "t.json"
    flags = ["--valid-labels", str(tmp_path / "valid.txt"), "--crops", "5", "--results-file", str(table)]
    run = str(runs / "test_resnet")
    assert validate.main([str(tmp_path / "data"), "--model", run, "--device", "cpu", *flags]) == 0
    [row] = json.loads(table.read_text())
    assert (row["classes"], row["images"], row["crops"]) == (2, len(list((tmp_path / "data").rglob("*.png"))), 5)


def test_command_line_is_deterministic(runs, tmp_path):
    flags = [str(runs / "test_resnet"), "--device", "cpu", "--tta", "--results-file"]
    assert validate.main([*flags, str(tmp_path / "a.json")]) == 0
    assert validate.main([*flags, str(tmp_path / "b.json"), "-b", "50"]) == 0
    a, b = (json.loads((tmp_path / name).read_text())[0] for name in ("a.json", "b.json"))
    assert (a["top1"], a["top5"]) == (b["top1"], b["top5"])
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert not (tmp_path / "a.json.csv").exists()


def test_command_line_compiles_and_casts(runs, tmp_path):
    flags = [str(runs / "test_resnet"), "--device", "cpu", "--results-file"]
    assert validate.main([*flags, str(tmp_path / "plain.json")]) == 0
    fast = ["--amp", "--channels-last", "--torchcompile", "eager"]
    assert validate.main([*flags, str(tmp_path / "fast.json"), *fast]) == 0
    plain, fast_row = (json.loads((tmp_path / name).read_text())[0] for name in ("plain.json", "fast.json"))
    assert (plain["amp_dtype"], fast_row["amp_dtype"]) == (None, "bfloat16")
    assert plain["loss"] != fast_row["loss"]
    assert fast_row["loss"] == pytest.approx(plain["loss"], rel=0.02)


def test_command_line_goes_on_after_a_model_that_fails(runs, tmp_path, capsys):
    flags = ["--device", "cpu", "--results-file", str(tmp_path / "t.csv")]
    assert validate.main(["test_resnett", str(runs / "test_resnet"), *flags]) == 1
    assert "Did you mean test_resnet" in capsys.readouterr().err
    assert (tmp_path / "t.csv").read_text().count("\n") == 2


def test_command_line_on_a_folder_with_a_broken_image(runs, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("0", "3", "7"):
        folder = tmp_path / "data" / "val" / name
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "data" / "val" / "3" / "1.png").write_bytes(b"broken")
    flags = [str(runs / "test_resnet"), "--data", str(tmp_path / "data"), "--device", "cpu"]
    assert validate.main([*flags, "--results-file", str(tmp_path / "t.json")]) == 0
    row = json.loads((tmp_path / "t.json").read_text())[0]
    assert (row["images"], row["unreadable"], row["classes"]) == (8, 1, 3)
    err = capsys.readouterr().err
    assert "1 of 9 images could not be read" in err
    assert "3 of 10 outputs used" in err
    assert validate.main([*flags, "--max-unreadable", "0"]) == 2
    assert "1.png" in capsys.readouterr().err
    # The class folders themselves will do, but not a data set that lacks the split.
    flags[2] = str(tmp_path / "data" / "val")
    assert validate.main([*flags, "--results-file", str(tmp_path / "direct.json")]) == 0
    direct = json.loads((tmp_path / "direct.json").read_text())[0]
    assert (direct["top1"], direct["loss"], direct["images"]) == (row["top1"], row["loss"], 8)
    (tmp_path / "data" / "val").rename(tmp_path / "data" / "train")
    flags[2] = str(tmp_path / "data")
    assert validate.main(flags) == 2
    assert "no folder for the split 'val'" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--results-file", "--per-class", "--confusion"])
def test_command_line_shows_what_it_cannot_write(flag, runs, tmp_path, capsys):
    """The disk is full when the file is written: the table of every model is on the terminal all the same."""
    specs = [str(runs / "test_resnet"), str(runs / "test_vit")]
    files = [tmp_path / "full.csv", *(tmp_path / f"full-{'_'.join(Path(spec).parts[1:])}.csv" for spec in specs)]
    for file in files:
        file.symlink_to("/dev/full")
    assert validate.main([*specs, flag, str(files[0]), "--device", "cpu", "-b", "355"]) == 2
    printed = capsys.readouterr()
    assert all(Path(spec).name in printed.out for spec in specs) and "top-1" in printed.out
    errors = [line for line in printed.err.splitlines() if "error: Cannot write" in line]
    assert len(errors) == 2 and all("No space left on device" in line for line in errors)


def test_command_line_refuses_a_path_that_cannot_be_written_before_it_measures(runs, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    for flag in ("--results-file", "--per-class", "--confusion"):
        argv = [str(runs / "test_resnet"), flag, str(tmp_path / "file" / "out.csv"), "--device", "cpu"]
        assert validate.main(argv) == 2
        printed = capsys.readouterr()
        assert "Cannot write" in printed.err and len(printed.err.strip().splitlines()) == 1 and not printed.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "at least one model"),
        (["test_resnet", "--no-pretrained", "--device", "cpu"], "1000 outputs and digits has 10 classes"),
        (["test_resnet", "test_vit", "--checkpoint", "w.pth"], "1 files for 2 models"),
        (["test_resnet", "-b", "0"], "--batch-size must be an integer of at least 1"),
        (["test_resnet", "--crop-pct", "87.5"], "--crop-pct"),
        (["test_resnet", "--device", "nowhere"], "--device must be cuda, cpu or mps"),
        (["test_resnet", "--no-pretrained", "--data", "absent", "--device", "cpu"], "--data absent does not exist"),
    ],
)
def test_command_line_errors_are_one_sentence(argv, message, capsys):
    assert validate.main(argv) == 2
    assert message in capsys.readouterr().err
