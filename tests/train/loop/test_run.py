"""Training in this process: what a run leaves, its options at work, and its errors."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from timm.models import register_model
from torch import nn

from backbones.models.registry import family_of
from backbones.train.cli import validate
from backbones.train.cli.train import main
from backbones.train.evaluation.models import load_model
from backbones.train.loop.losses import build_criterion
from backbones.train.options.recipe import resolve

CHEAP = "img_size=32 device=cpu workers=0 no_benchmark=true epochs=1 batch_size=8"
SMALL = f"--model test_vit model_kwargs.patch_size=8 {CHEAP}"


def run(tmp_path, *argv, data=None, name="run", code=0, small=SMALL):
    """Trains under tmp_path and returns the run folder."""
    words = small.split() + (["--data", str(data)] if data else [])
    words += ["--output", str(tmp_path), "--experiment", name, *(word for text in argv for word in text.split())]
    assert main(words) == code
    return tmp_path / name


def table(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def rows(path):
    return [{k: float(v) for k, v in row.items() if v} for row in table(path / "summary.csv")]


@register_model
def two_heads_for_tests(pretrained=False, num_classes=10, **kwargs):
    """A model that returns (main, auxiliary) logits in training."""

    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head, self.aux_head = nn.Linear(8, num_classes), nn.Linear(8, num_classes)
            self.num_classes = num_classes
            self.pretrained_cfg = {}

        def forward(self, x):
            x = self.body(x)
            return (self.head(x), self.aux_head(x)) if self.training else self.head(x)

    return TwoHeads()


@register_model
def memory_of_three_for_tests(pretrained=False, num_classes=10, good_calls=0, **kwargs):
    """A model whose forward pass runs out of memory with more than three images, after some good calls."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(8, num_classes)
            self.num_classes = num_classes
            self.pretrained_cfg = {}
            self.good_calls = good_calls

        def forward(self, x):
            self.good_calls -= self.training
            if self.training and len(x) > 3 and self.good_calls < 0:
                raise torch.OutOfMemoryError("no memory for that many")
            return self.head(self.body(x))

    return Small()


@register_model
def nan_later_for_tests(pretrained=False, num_classes=10, good_calls=2, **kwargs):
    """A model whose evaluation, but not its training, gives NaN after some good calls."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(8, num_classes)
            self.num_classes, self.pretrained_cfg, self.good_calls = num_classes, {}, good_calls

        def forward(self, x):
            self.good_calls -= not self.training
            logits = self.head(self.body(x))
            return logits * float("nan") if self.good_calls < 0 and not self.training else logits

    return Small()


@pytest.mark.parametrize(("good", "best"), [(2, "1"), (0, None)])
def test_nan_is_never_the_best(good, best, photo_folder, tmp_path, capsys):
    """Two batches an evaluation: the second epoch's loss is NaN, or that of every epoch is."""
    argv = f"--model nan_later_for_tests model_kwargs.good_calls={good} eval_metric=loss epochs=3"
    path = run(tmp_path, argv, data=photo_folder, small=CHEAP)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("best: ")]
    assert (path / "best.safetensors").exists() == bool(said) == (best is not None)
    if best:
        assert f"at epoch {best} " in said[0] and "nan" not in said[0].split("(")[0]


def test_a_run_leaves_everything(photo_folder, tmp_path, capsys):
    path = run(tmp_path, "epochs=2 model_ema=true no_benchmark=false", data=photo_folder)
    names = {file.name for file in path.iterdir()}
    assert names == {
        "recipe.yaml", "summary.csv", "curves.png", "benchmark.csv", "tensorboard", "last.state.pt",
        "last.safetensors", "best.safetensors", "last_ema.safetensors", "best_ema.safetensors",
    }  # fmt: skip
    assert len(rows(path)) == 2 and rows(path)[1]["epoch"] == 2 and 0 <= rows(path)[1]["eval_ema_top1"] <= 100
    recipe = yaml.safe_load((path / "recipe.yaml").read_text())
    assert recipe["class_names"] == ["china", "flower", "seven", "three"] and recipe["num_classes"] == 4
    assert (recipe["img_size"], recipe["global_batch"], recipe["world_size"]) == (32, 8, 1)
    assert any((path / "tensorboard").iterdir()) and (path / "curves.png").read_bytes().startswith(b"\x89PNG")
    [row] = table(path / "benchmark.csv")
    assert float(row["gmacs"]) > 0 and float(row["train_img_per_s"]) > 0 and float(row["infer_img_per_s"]) > 0
    text = capsys.readouterr().out
    assert "weights: random" in text and "learning rate" in text and "global batch 8 = 8 images x 1 processes" in text


@pytest.mark.parametrize("name", ["maxvit_t", "biformer_t", "nat_m", "dinat_m", "overlock_xt"])
def test_every_family_trains_on_real_jpegs_with_its_recipe(name, photo_folder, tmp_path):
    """The authors' recipe with a test-size model; the loss falls when it sees the same few images again and again."""
    recipe, tiny = name.partition("_")[0], family_of(name).tiny
    path = run(
        tmp_path,
        f"--recipe {recipe} --model {name} img_size=32 device=cpu workers=0 batch_size=8 grad_accum_steps=1 amp=false",
        "sync_bn=false no_benchmark=true drop_path=0 overfit=8 epochs=12 warmup_epochs=0 cooldown_epochs=0 lr=2e-3",
        *[f"model_kwargs.{key}={json.dumps(value, separators=(',', ':'))}" for key, value in tiny.items()],
        data=photo_folder,
        small="",
    )
    losses = [row["train_loss"] for row in rows(path)]
    assert losses[-1] < 0.7 * losses[0]
    recipe = yaml.safe_load((path / "recipe.yaml").read_text())
    assert recipe["model_kwargs"].get("aux_head", False) == (name == "overlock_xt")
    assert load_model(str(path)).report.complete


def test_image_size_sets_windows_of_maxvit_and_resizes_its_tables(photo_folder, tmp_path):
    """From weights of windows of 7 to images of 96 pixels: windows of 3, in the run and whenever it is loaded."""
    args = {"dims": [32, 32, 32, 32], "depths": [1, 1, 1, 1], "stem_width": 8}
    source = timm.create_model("maxvit_t", num_classes=4, **args)
    torch.save({"model": source.state_dict()}, tmp_path / "224.pth")
    path = run(
        tmp_path,
        f"--recipe maxvit:finetune_384 --model maxvit_t --pretrained-path {tmp_path / '224.pth'} img_size=96",
        "device=cpu workers=0 batch_size=4 grad_accum_steps=1 epochs=1 amp=false no_benchmark=true",
        *[f"model_kwargs.{key}={json.dumps(value, separators=(',', ':'))}" for key, value in args.items()],
        data=photo_folder,
        small="",
    )
    loaded = load_model(str(path))
    assert loaded.report.complete and loaded.model.window_size == (3, 3)
    tables = {p.shape for name, p in loaded.model.named_parameters() if name.endswith("bias_table")}
    assert tables == {(1, 5, 5)}
    assert load_model(str(path), img_size=128).model.window_size == (3, 3), "a model runs at any size as it is"


def test_validation_reads_the_run(photo_folder, tmp_path):
    path = run(tmp_path, data=photo_folder)
    loaded = load_model(str(path))
    assert loaded.report.complete and loaded.class_names == ["china", "flower", "seven", "three"]
    assert loaded.data_config["input_size"] == (3, 32, 32)


def test_accumulated_batches_equal_a_big_one(photo_folder, tmp_path):
    # Plain SGD: an optimiser that normalises gradients would hide a wrong scale.
    shared = "mixup=0.8 cutmix=1.0 aa=rand-m9 reprob=0.3 opt=sgd lr=0.05 epochs=2 warmup_epochs=0"
    big = run(tmp_path, shared, "batch_size=16", data=photo_folder, name="big")
    small = run(tmp_path, shared, "batch_size=4 grad_accum_steps=4", data=photo_folder, name="small")
    for ours, theirs in zip(rows(small), rows(big)):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)
    ours, theirs = load_file(small / "last.safetensors"), load_file(big / "last.safetensors")
    assert all((ours[key] - theirs[key]).abs().max() < 2e-4 for key in theirs)
    other = run(tmp_path, shared, "batch_size=16 seed=1", data=photo_folder, name="other")
    assert rows(other)[0]["train_loss"] != pytest.approx(rows(big)[0]["train_loss"], abs=1e-4)


@pytest.mark.parametrize(
    "argv",
    [
        "amp=true amp_dtype=bfloat16 channels_last=true grad_checkpointing=true",
        "amp=true amp_dtype=float16 clip_grad=1.0 clip_mode=agc opt=sgd",
        "bce_loss=true mixup=0.2 mixup_mode=elem mixup_off_epoch=1 clip_grad=0.1 clip_mode=value",
        "aug_repeats=3 smoothing=0 sched=step decay_epochs=1 opt=lamb in_chans=1",
        "sched=plateau patience_epochs=0 layer_decay=0.7 model_ema=true model_ema_warmup=true eval_metric=loss",
    ],
)
def test_options_at_work(argv, photo_folder, tmp_path):
    path = run(tmp_path, argv, "epochs=2", data=photo_folder)
    assert len(rows(path)) == 2 and all(row["train_loss"] < 10 for row in rows(path))


def test_compiled_training_equals_eager(photo_folder, tmp_path):
    eager = run(tmp_path, data=photo_folder, name="eager")
    compiled = run(tmp_path, "torchcompile=aot_eager", data=photo_folder, name="compiled")
    assert rows(compiled)[0]["train_loss"] == pytest.approx(rows(eager)[0]["train_loss"], abs=1e-5)
    assert load_file(compiled / "last.safetensors").keys() == load_file(eager / "last.safetensors").keys()


def test_auxiliary_heads_are_weighed(photo_folder, tmp_path):
    model = "--model two_heads_for_tests smoothing=0 lr=0 warmup_epochs=0 min_lr=0"
    losses = []
    for weight in (0.0, 0.4, 1.0):
        path = run(tmp_path, model, f"aux_loss_weight={weight}", data=photo_folder, name=str(weight), small=CHEAP)
        losses.append(rows(path)[0]["train_loss"])
    assert losses[2] > losses[1] > losses[0]
    assert losses[1] - losses[0] == pytest.approx(0.4 * (losses[2] - losses[0]), rel=1e-4)


def test_distillation_pulls_to_the_teacher(photo_folder, tmp_path):
    teacher = timm.create_model("test_resnet", num_classes=4)
    with torch.no_grad():
        teacher.get_classifier().weight.zero_()
        teacher.get_classifier().bias.copy_(torch.tensor([0.0, 0.0, 8.0, 0.0]))  # always says class 2
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    path = run(
        tmp_path,
        f"kd_model_name=test_resnet kd_pretrained_path={tmp_path / 'teacher.pth'} task_loss_weight=0 epochs=4 lr=3e-3",
        "warmup_epochs=0 no_aug=true",
        data=photo_folder,
    )
    student = load_model(str(path)).model
    assert (student(torch.randn(16, 3, 32, 32)).argmax(1) == 2).all()
    assert rows(path)[-1]["train_loss"] < 0.2 * rows(path)[0]["train_loss"]


def test_distilled_features_resume_with_their_projection(photo_folder, tmp_path):
    torch.save(timm.create_model("test_resnet", num_classes=4).state_dict(), tmp_path / "teacher.pth")
    shared = f"kd_model_name=test_resnet kd_pretrained_path={tmp_path / 'teacher.pth'} kd_distill_type=feature"
    shared += " epochs=2 clip_grad=1.0 model_ema=true"
    first = run(tmp_path, shared, "epochs=1 sched=none", data=photo_folder, name="first")
    run(tmp_path, "epochs=2 resume=auto", data=photo_folder, name="first", small="")
    through = run(tmp_path, shared, "sched=none", data=photo_folder, name="through")
    assert torch.load(through / "last.state.pt", weights_only=True)["projection"]["weight"].ndim == 2
    ours, theirs = load_file(first / "last.safetensors"), load_file(through / "last.safetensors")
    assert not any("projection" in key or "student" in key for key in theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_images_that_are_not_square(photo_folder, tmp_path):
    """The size reaches the model, evaluation, the run's recipe, resuming and validation."""
    small = "--model test_vit model_kwargs.patch_size=8 device=cpu workers=0 no_benchmark=true batch_size=8"
    path = run(tmp_path, "--input-size 1 32 48 epochs=1", data=photo_folder, small=small)
    assert load_file(path / "last.safetensors")["pos_embed"].shape[1] == 1 + 4 * 6
    recipe = yaml.safe_load((path / "recipe.yaml").read_text())
    assert (recipe["input_size"], recipe["img_size"], recipe["in_chans"]) == ([1, 32, 48], None, 1)
    assert load_model(str(path)).data_config["input_size"] == (1, 32, 48)
    run(tmp_path, "resume=auto epochs=2", data=photo_folder, small="")
    assert len(rows(path)) == 2


def test_augmentation_splits_and_their_divergence(photo_folder, tmp_path):
    """Without anything random but the strong augmentation, the first split is the plain image."""
    still = "lr=0 warmup_lr=0 min_lr=0 warmup_epochs=0 smoothing=0 hflip=0 ratio=[0.999,1.0] scale=[0.999,1.0]"
    plain = run(tmp_path, still, "color_jitter=0", data=photo_folder, name="plain")
    split = run(tmp_path, still, "aug_splits=3 jsd_loss=true aa=augmix-m5-w2", data=photo_folder, name="split")
    assert rows(split)[0]["train_loss"] > rows(plain)[0]["train_loss"]
    model = load_model(str(split)).model.train()
    options = resolve("demo", {"aug_splits": 3, "jsd_loss": True, "smoothing": 0.0, "model": "test_vit"})
    images, labels = torch.randn(2, 3, 3, 32, 32), torch.tensor([0, 1])
    logits = model(images.transpose(0, 1).flatten(0, 1))
    probabilities = [part.softmax(-1) for part in logits.chunk(3)]
    mixture = torch.stack(probabilities).mean(0).log()
    divergence = sum((p * (p.log() - mixture)).sum(-1).mean() for p in probabilities) / 3
    expected = nn.functional.cross_entropy(logits[:2], labels) + 12 * divergence
    assert build_criterion(options, False)(logits, labels.repeat(3)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_evaluation_every_few_epochs(photo_folder, tmp_path):
    path = run(tmp_path, "epochs=5 val_interval=2", data=photo_folder)
    assert [row["epoch"] for row in rows(path) if "eval_top1" in row] == [2, 4, 5]
    assert all("train_loss" in row for row in rows(path)) and (path / "curves.png").exists()


def test_the_best_epochs_are_kept(photo_folder, tmp_path):
    path = run(tmp_path, "epochs=4 checkpoint_hist=2 eval_metric=loss model_ema=true lr=3e-3", data=photo_folder)
    for suffix in ("", "_ema"):
        order = sorted(rows(path), key=lambda row: row[f"eval{suffix}_loss"])
        kept = {file.name for file in path.glob("checkpoint-*") if file.stem.endswith("_ema") == bool(suffix)}
        assert kept == {f"checkpoint-{row['epoch']:.0f}{suffix}.safetensors" for row in order[:2]}
        best = load_file(path / f"best{suffix}.safetensors")
        first = load_file(path / f"checkpoint-{order[0]['epoch']:.0f}{suffix}.safetensors")
        assert all(torch.equal(best[key], first[key]) for key in best)
    assert load_model(str(next(path.glob("checkpoint-*.safetensors")))).report.complete


def test_the_classifier_starts_as_asked(photo_folder, tmp_path):
    still = "lr=0 warmup_lr=0 min_lr=0 warmup_epochs=0 head_init_scale=0.5 head_init_bias=-4"
    plain = load_file(run(tmp_path, still.partition(" head")[0], data=photo_folder, name="plain") / "last.safetensors")
    asked = load_file(run(tmp_path, still, data=photo_folder, name="asked") / "last.safetensors")
    assert torch.equal(asked["head.weight"], plain["head.weight"] * 0.5) and (asked["head.bias"] == -4).all()


def test_weights_in_another_type(photo_folder, tmp_path, capsys):
    path = run(tmp_path, "model_dtype=bfloat16 mixup=0.5 model_ema=true", data=photo_folder)
    for name in ("last", "last_ema"):
        assert {value.dtype for value in load_file(path / f"{name}.safetensors").values()} == {torch.bfloat16}
    assert validate.main([str(path), "--model-dtype", "bfloat16", "--device", "cpu"]) == 0
    assert "images" in capsys.readouterr().out


def test_pretrained_file_with_other_classes_is_adapted_and_loud(photo_folder, tmp_path, capsys):
    source = timm.create_model("test_vit", img_size=32, patch_size=8, num_classes=9)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    run(tmp_path, f"pretrained_path={tmp_path / 'w.pth'} lr=0 warmup_lr=0 min_lr=0", data=photo_folder)
    text = capsys.readouterr().out
    assert "78 of 80 keys matched" in text and "WARNING: only 97.5 %" in text and "head.weight" in text
    trained = load_file(tmp_path / "run" / "last.safetensors")
    assert torch.equal(trained["blocks.0.attn.qkv.weight"], source.blocks[0].attn.qkv.weight)
    assert main([*SMALL.split(), f"initial_checkpoint={tmp_path / 'w.pth'}", f"output={tmp_path}"]) == 2
    assert "--pretrained-path adapts" in capsys.readouterr().err


def test_initial_checkpoint_is_loaded_whole(photo_folder, tmp_path, capsys):
    first = run(tmp_path, data=photo_folder, name="first")
    run(tmp_path, f"initial_checkpoint={first / 'best.safetensors'}", data=photo_folder, name="second")
    text = capsys.readouterr().out
    assert "80 of 80 keys matched (100.0 %)" in text and "RANDOM" not in text


def test_dry_run_keeps_nothing(photo_folder, tmp_path, capsys):
    run(tmp_path, "dry_run=true no_benchmark=false", data=photo_folder)
    assert list(tmp_path.iterdir()) == []
    text = capsys.readouterr().out
    assert "step 2/6" in text and "step 3/6" not in text and "benchmark:" in text and "nothing was kept" in text


def test_overfit_memorises_its_images(photo_folder, tmp_path, capsys):
    path = run(
        tmp_path, "overfit=8 epochs=30 lr=3e-3 warmup_epochs=0 sched_on_updates=true log_interval=50", data=photo_folder
    )
    assert rows(path)[-1]["eval_top1"] == 100 and rows(path)[-1]["train_loss"] < 0.5 * rows(path)[0]["train_loss"]
    text = capsys.readouterr().out
    assert "8 images to train, 8 to evaluate" in text and "the model can memorise them" in text


def test_early_stop(photo_folder, tmp_path, capsys):
    path = run(tmp_path, "early_stop=2 epochs=9 lr=0 warmup_lr=0 min_lr=0 warmup_epochs=0", data=photo_folder)
    assert len(rows(path)) == 3 and "has not improved for 2 epochs" in capsys.readouterr().out


def test_unreadable_images_are_reported(photo_folder, tmp_path, capsys):
    data = shutil.copytree(photo_folder, tmp_path / "data")
    for name in ("train/china/001.jpg", "val/three/013.jpg"):
        (data / name).write_bytes(b"broken")
    path = run(tmp_path, "epochs=2 workers=1", data=data)
    text = capsys.readouterr().out
    assert "1 unreadable train images were skipped" in text and "1 unreadable val images were skipped" in text
    assert "train/china/001.jpg" in (path / "unreadable_train.txt").read_text()
    run(tmp_path, "max_unreadable=0", data=data, name="strict", code=2)
    assert "--max-unreadable allows" in capsys.readouterr().err


def test_out_of_memory_names_the_batch_that_fits(photo_folder, tmp_path, capsys):
    run(tmp_path, "--model memory_of_three_for_tests", data=photo_folder, small=CHEAP, code=3)
    error = capsys.readouterr().err
    assert "A batch of 2 fits: --batch-size 2 --grad-accum-steps 4 keeps the global batch" in error


def test_automatic_halving_keeps_the_global_batch(photo_folder, tmp_path, capsys):
    model = "--model memory_of_three_for_tests"
    halved = run(tmp_path, model, "auto_batch_halving=true", data=photo_folder, small=CHEAP, name="halved")
    assert "2 images x 4 accumulation steps" in capsys.readouterr().out
    chosen = run(tmp_path, model, "batch_size=2 grad_accum_steps=4", data=photo_folder, small=CHEAP, name="chosen")
    ours, theirs = load_file(halved / "last.safetensors"), load_file(chosen / "last.safetensors")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_memory_that_runs_out_later_halves_and_repeats_the_step(photo_folder, tmp_path, capsys, monkeypatch):
    """The second half of the second step fails: it is done again from its start, in smaller pieces."""
    import backbones.train.loop.run as module

    monkeypatch.setattr(module, "largest_batch", lambda model, loss, size, batch, options: batch)
    model = "--model memory_of_three_for_tests model_kwargs.good_calls=3 opt=sgd lr=0.1 warmup_epochs=0"
    options = "auto_batch_halving=true grad_accum_steps=2"
    halved = run(tmp_path, model, options, data=photo_folder, small=CHEAP, name="halved")
    assert "now 2 images x 8 accumulation steps (global batch 16 as before)" in capsys.readouterr().out
    chosen = run(tmp_path, model, "batch_size=2 grad_accum_steps=8", data=photo_folder, small=CHEAP, name="chosen")
    assert rows(halved)[0]["train_loss"] == pytest.approx(rows(chosen)[0]["train_loss"], abs=1e-5)
    ours, theirs = load_file(halved / "last.safetensors"), load_file(chosen / "last.safetensors")
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-5) for key in theirs)


def test_non_finite_loss_stops_and_names_the_step(photo_folder, tmp_path, capsys):
    run(tmp_path, "opt=sgd lr=1e20 warmup_epochs=0 epochs=3 log_interval=2", data=photo_folder, code=3)
    error = capsys.readouterr().err
    assert "The loss is not finite at step" in error and "--clip-grad" in error
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_a_finished_run_is_kept_unless_asked_and_can_be_prolonged(photo_folder, tmp_path, capsys):
    path = run(tmp_path, data=photo_folder)
    run(tmp_path, data=photo_folder, code=2)
    assert "holds a run already: continue it with --resume auto" in capsys.readouterr().err
    (path / "notes.txt").write_text("mine")
    run(tmp_path, "--overwrite seed=1", data=photo_folder)
    assert len(rows(path)) == 1 and (path / "notes.txt").exists()
    run(tmp_path, "epochs=3 resume=auto", data=photo_folder)
    assert "changed on resuming: epochs was 1, now is 3" in capsys.readouterr().out
    assert [row["epoch"] for row in rows(path)] == [1, 2, 3]


def test_resume_with_another_batch_inside_an_epoch_is_refused(photo_folder, tmp_path, capsys):
    state = run(tmp_path, data=photo_folder) / "last.state.pt"
    content = torch.load(state, weights_only=True)
    torch.save({**content, "epoch": 0, "step": 2}, state)
    run(tmp_path, "resume=auto batch_size=4", data=photo_folder, code=2 + 1)
    assert "global batch of 8, but now it would be 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--model tset_vit", "test_vit"),
        ("--data /nowhere", "does not exist"),
        ("model_kwargs.patch_sise=4", "--model-kwargs: test_vit takes no patch_sise. Did you mean patch_size"),
        ("model_kwargs.depth=many", "depth=many: test_vit refuses that: "),
        ("model_kwargs.num_heads=7", "num_heads=7: test_vit refuses that: "),
        ("--resume nowhere", "there is no run"),
        ("num_classes=3", "more than --num-classes 3"),
        ("batch_size=7 mixup=0.5", "even --batch-size"),
        ("device=gpu", "must be cuda, cpu or mps"),
    ],
)
def test_mistakes_end_with_one_sentence(argv, message, tmp_path, capsys):
    assert main([*SMALL.split(), f"output={tmp_path}", *argv.split()]) in (2, 3)
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
