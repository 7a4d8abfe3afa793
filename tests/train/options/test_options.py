"""The tables of options: their bounds at work on the command line, and what follows from being resolved once."""

from __future__ import annotations

import dataclasses
import math
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backbones.train.cli import predict, validate
from backbones.train.cli.train import main
from backbones.train.options import OPTIONS, Option, OptionError, TrainOptions
from backbones.train.options.evaluation import PredictOptions, ValidateOptions
from backbones.train.options.option import Interval
from backbones.train.options.page import page
from backbones.train.options.recipe import parse_command_line, resolve

ROOT = Path(__file__).parents[3]


def resolved(*argv: str) -> TrainOptions:
    return resolve(*parse_command_line(list(argv)))


def outside(interval: Interval) -> list[str]:
    """Numbers just beyond an interval's bounds."""
    low, high = interval.bounds
    numbers = [low - 1 if interval.text[0] == "[" else low]
    if high < math.inf:
        numbers.append(high + 1 if interval.text[-1] == "]" else high)
    return [f"{number:g}" for number in numbers]


def wrong_values(option: Option) -> list[list[str]]:
    """Words for the command line that the table says are wrong for an option."""
    if option.type is bool:
        return [[f"{option.name}=maybe"], [f"{option.name}=3"]]
    values: list[list[str]] = []
    if option.type is dict:
        values.append(["no-sign"])
    if option.type in (int, float):
        single = ["text", "nan", "1e999", *(["1.5"] if option.type is int else [])]
        single += outside(option.within) if option.within else []
        values += [[text] for text in single]
    if option.choices is not None or option.rule is not None:
        values.append(["7"] if option.type is int else [] if option.type is dict else ["no-such-name"])
    if option.type is str and option.choices is not None:
        values.append([str(option.choices[0]) + "x"])
    if option.count:
        values += [["0.5"] * (option.count - 1), ["0.5"] * (option.count + 1)]
    if option.increasing:
        values.append(["1", "0.5"] if option.type is float else ["9", "5"])
    return [[option.flag, *words] for words in values if words]


def test_a_hundred_wrong_values_give_a_hundred_sentences(tmp_path, capsys):
    pairs = [(option, words) for option in OPTIONS.values() for words in wrong_values(option)]
    assert len({option.name for option, _ in pairs}) > 100
    drawn = random.Random(0).sample(pairs, 100)
    for option, words in drawn:
        assert main(["--output", str(tmp_path / "runs"), *words]) == 2, words
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and re.match(r"error: [^\n]+[.?]\n$", error), error
        assert option.flag in error and "Traceback" not in error, error
        assert words[-1].rpartition("=")[2] in error or "nan" in words or option.increasing, error
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("program", "kind", "must"),
    [(validate.main, ValidateOptions, ["nat_m"]), (predict.main, PredictOptions, ["-m", "nat_m", "a.png"])],
)
def test_validate_and_predict_check_the_same_way(program, kind, must, capsys):
    pairs = [
        (option, words) for option in kind.table().values() for words in wrong_values(option) if "=" not in words[0]
    ]
    assert len({option.name for option, _ in pairs}) > 15
    for option, words in pairs:
        assert program([*must, *words]) == 2, words
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and option.flag in error, error


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--lr -1", "--lr must be a number of at least 0, not -1."),
        ("--drop 2", "--drop must be a number in [0, 1), not 2."),
        ("--opt adamww", "--opt must be an optimiser of timm.optim, not 'adamww'. Did you mean adamw"),
        ("--sched cosin", "none, not 'cosin'. Did you mean cosine?"),
        ("--aa foo", "--aa must be a policy such as rand-m9-mstd0.5-inc1"),
        ("--aa rand-m9-mstdx", "no meaning: 'mstdx'"),
        ("--scale 0.5", "--scale must be two increasing numbers in (0, 1], not 0.5."),
        ("--scale 0.9 0.1", "--scale must be two increasing numbers in (0, 1], not 0.9 0.1."),
        ("--smoothing -0.5", "--smoothing must be a number in [0, 1), not -0.5."),
        ("--crop-pct 2", "--crop-pct must be a number in (0, 1], not 2."),
        ("--model-ema-decay 2", "--model-ema-decay must be a number in (0, 1), not 2."),
        ("--in-chans 2", "--in-chans must be one of 1, 3, 4, not 2."),
        ("--device gpu", "--device must be cuda, cpu or mps, not 'gpu'."),
        ("--device mps", "--device must be a device of this machine"),
        ("--model nat_x", "Did you mean nat_"),
        ("--model nat_m.in22k", "it has nat_m.in1k."),
        ("--kd-model-name foo", "--kd-model-name must be a model of timm or of backbones, not 'foo'."),
        ("--kd-temperature 0", "--kd-temperature must be a number above 0, not 0."),
        ("--kd-pretrained-path x.pth", "--kd-pretrained-path needs a teacher: give --kd-model-name"),
        ("--task-loss-weight 0.5", "--task-loss-weight needs a teacher"),
        ("--kd-model-name test_vit --task-loss-weight 2", "leaves distillation the rest to 1, which is negative"),
        ("--resume auto --overwrite", "--resume continues a run and --overwrite deletes it"),
        ("--bce-sum", "give --bce-loss too"),
        ("--mean 0.5 0.5", "--mean has 2 values for --in-chans 3: give 1 or 3."),
        ("--mixup 0.8 --batch-size 7", "Mixup and cutmix need an even --batch-size, not 7."),
        ("--torchcompile inducto", "must be a backend of torch.compile, not 'inducto'. Did you mean inductor?"),
        ("--torchcompile-mode fast", "--torchcompile-mode must be one of default, reduce-overhead"),
        ("--model-kwargs num_classes=3", "has an option of its own: --num-classes."),
        ("--sched plateau --val-interval 2", "drop --val-interval"),
        ("--wandb-project mine", "belong to --log-wandb"),
        ("--model-dtype float16 --amp", "give --no-amp with it"),
        ("--input-size 2 32 32", "--in-chans must be one of 1, 3, 4, not 2."),
        ("--aug-splits 1", "give 2 or more"),
        ("--jsd-loss", "--aug-splits 0 are no splits: give 2 or more"),
        ("--aug-splits 3 --mixup 0.5", "does not go with mixup"),
        ("--epochs", "Argument --epochs: expected one argument."),
        ("epochs=null", "--epochs must be an integer of at least 1, not empty."),
    ],
)
def test_what_is_said(argv, sentence):
    if argv == "--device mps":
        import torch

        if torch.backends.mps.is_available():
            argv, sentence = "--device cuda:99", "device"
    with pytest.raises(OptionError) as caught:
        resolved(*argv.split())
    assert sentence in str(caught.value)


def test_a_wrong_value_of_a_recipe_names_its_file_and_one_overridden_does_not_matter(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: nat_m\nsmoothing: 1.5\n")
    with pytest.raises(OptionError, match=r"mine.yaml: smoothing must be a number in \[0, 1\), not 1.5\."):
        resolved("--recipe", str(file))
    assert resolved("--recipe", str(file), "--smoothing", "0.2").smoothing == 0.2


def test_options_are_typed_and_frozen():
    options = resolved("--recipe", "demo", "--opt-betas", "0.9", "0.95", "drop_path=1e-1", "--batch-size", "8.0")
    assert (options.opt_betas, options.drop_path, options.batch_size) == ((0.9, 0.95), 0.1, 8)
    assert isinstance(options.batch_size, int) and options.scale == (0.7, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.lr = 1.0
    with pytest.raises(TypeError):
        options.model_kwargs["dims"] = 3
    assert options.replace(lr=1.0).lr == 1.0 and options.lr == 2e-3


def test_the_page_of_options_is_up_to_date():
    written = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert written == page(), "run python tools/options_page.py"


def test_wandb_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="--log-wandb needs a package that is not installed: pip install wandb"):
        resolved("--log-wandb")


def test_overfitting_is_resolved_with_everything_else():
    options = resolved("--recipe", "nat", "--model", "nat_t", "--overfit", "8")
    assert (options.mixup, options.cutmix, options.smoothing) == (0, 0, 0) and not options.mixes


def test_every_default_is_a_value_that_its_option_takes():
    for option in OPTIONS.values():
        if option.default is not None:
            assert option.check(option.default) == option.default
        assert option.optional or option.default is not None


def test_every_option_that_has_a_bound_refuses_what_lies_beyond():
    """Guards the drawn hundred: without bounds in the table, there would be nothing wrong to draw."""
    free = {name for name, option in OPTIONS.items() if not wrong_values(option)}
    assert free == {
        "data", "data_dir", "dataset", "train_split", "val_split", "class_map", "input_key", "target_key",
        "pretrained_path", "initial_checkpoint", "gp", "kd_pretrained_path", "output", "experiment", "resume",
        "wandb_project", "wandb_tags",
    }  # fmt: skip


@pytest.mark.parametrize("flags", ["--lr -1", "--no-such-flag", "--recipe nat --model nat_m --sched cosin"])
def test_the_program_says_one_sentence_and_leaves_nothing(flags, tmp_path):
    program = [sys.executable, "-m", "backbones.train.cli.train", *flags.split()]
    done = subprocess.run(program, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and list(tmp_path.iterdir()) == []
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
