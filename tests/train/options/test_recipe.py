"""Recipes, flags and overrides, and what is said about mistakes."""

from __future__ import annotations

import pytest
import timm
import yaml

import backbones
from backbones.models import family_of
from backbones.train.loop.optimizer import resolve_lr
from backbones.train.options import OPTIONS, OptionError
from backbones.train.options.recipe import (
    build_train_parser,
    list_recipes,
    load_recipe,
    parse_command_line,
    resolve,
)


def resolved(*argv):
    return resolve(*parse_command_line(list(argv)))


def test_every_recipe_resolves_for_every_model_it_names_and_they_exist():
    names = set()
    for recipe in list_recipes():
        content, _ = load_recipe(recipe)
        for variant in ("", *(f":{name}" for name in content.get("variants") or {})):
            part = content["variants"][variant[1:]] if variant else content
            for model in part.get("models") or content["models"]:
                options = resolve(recipe + variant, {"model": model, "data": "folder"})
                assert options.model == model and timm.is_model(model)
                names.add(model)
    # All but those that the authors publish neither weights nor an accuracy of, and timm's, whose recipes nobody has.
    ours = {
        name
        for name in backbones.list_models()
        if name.partition("_")[0] in list_recipes()
        and any(w.top1 or w.url or w.hf_hub_id or w.page for w in family_of(name).variants[name].weights.values())
        and "pytorch-image-models" not in family_of(name).origin_url
    }
    assert ours <= names, f"models without a recipe: {sorted(ours - names)}"


@pytest.mark.parametrize(
    ("recipe", "model", "expected"),
    [
        ("nat", "nat_s", {"drop_path": 0.3, "lr": 1e-3, "warmup_epochs": 20, "cooldown_epochs": 10, "min_lr": 5e-6}),
        ("dinat", "dinat_b", {"drop_path": 0.5, "clip_grad": 5.0, "reprob": 0.25, "weight_decay": 0.05}),
        (
            "dinat:finetune_384",
            "dinat_l",
            {"weight_decay": 1e-10, "lr": 5e-5, "img_size": 384, "mixup": 0.0, "amp": False},
        ),
        ("maxvit", "maxvit_l", {"drop_path": 0.6, "model_ema_decay": 0.9999, "cutmix": 0.0, "warmup_epochs": 32}),
        ("maxvit:finetune_512", "maxvit_t", {"img_size": 512, "weight_decay": 1e-8, "drop_path": 0.2, "lr": 5e-5}),
        ("biformer", "biformer_s", {"drop_path": 0.15, "aug_repeats": 3, "clip_grad": None, "lr_base": 5e-4}),
        ("overlock", "overlock_b", {"drop_path": 0.5, "crop_pct": 0.975, "sync_bn": True, "aux_loss_weight": 0.4}),
        ("patnet", "patnet_l", {"batch_size": 256, "lr": 2e-3, "clip_grad": 0.01, "mixup": 0.7, "aug_repeats": 0}),
        ("van", "van_b3", {"drop_path": 0.2, "lr": 1e-3, "min_lr": 1e-6, "warmup_epochs": 5, "amp": False}),
    ],
)
def test_authors_values(recipe, model, expected):
    options = resolve(recipe, {"model": model, "data": "folder"})
    assert {key: getattr(options, key) for key in expected} == expected


def test_emov2_is_distilled_as_published():
    """5 times the divergence at temperature 1 from TResNet-L v2, which sees 224 pixels, neither shifted nor scaled."""
    options = resolve("emov2:distill", {"model": "emov2_5m", "data": "folder"})
    teacher = timm.models.get_pretrained_cfg(options.kd_model_name)
    assert (teacher.architecture, teacher.mean, teacher.std) == ("tresnet_v2_l", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert (options.task_loss_weight, options.distill_loss_weight, options.kd_temperature) == (1.0, 5.0, 1.0)
    assert (options.kd_distill_type, options.kd_img_size, options.smoothing) == ("logit", 224, 0.1)


def test_tag_and_file_find_the_same_entry():
    file = str(list_recipes()["nat"])
    assert resolved("--recipe", file, "--model", "nat_b.in1k", "--data", "x").drop_path == 0.5


def test_flags_and_key_value_win_over_the_recipe():
    options = resolved(
        "--recipe",
        "nat",
        "--model",
        "nat_m",
        "epochs=7",
        "--drop-path",
        "0.05",
        "model_kwargs.kernel_size=5",
        "--no-amp",
    )
    assert (options.epochs, options.drop_path, options.amp) == (7, 0.05, False)
    assert options.model_kwargs == {"kernel_size": 5}
    assert options.weight_decay == 0.05


def test_lr_base_by_flag_replaces_an_absolute_lr_of_the_recipe():
    options = resolved("--recipe", "nat", "--model", "nat_m", "--lr-base", "2e-3", "--lr-base-size", "256")
    assert resolve_lr(options, 1024)[0] == pytest.approx(8e-3)
    assert resolve_lr(resolved("--recipe", "nat", "--model", "nat_m"), 64)[0] == 1e-3


@pytest.mark.parametrize(("scale", "expected"), [("linear", 4e-3), ("sqrt", 2e-3)])
def test_learning_rate_scaling_is_explicit(scale, expected):
    options = resolved("--data", "x", "--lr-base", "1e-3", "--lr-base-size", "256", "--lr-base-scale", scale)
    lr, sentence = resolve_lr(options, 1024)
    assert lr == pytest.approx(expected)
    assert scale in sentence and "1024/256" in sentence and "global batch 1024" in sentence


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["epoch=3"], "unknown key 'epoch'. Did you mean epochs"),
        (["--warmup-epoch", "3"], "Unknown flag --warmup-epoch. Did you mean --warmup-epochs"),
        (["lr=fast"], "lr must be a number of at least 0, not 'fast'"),
        (["amp=1"], "amp must be true or false"),
        (["clip_mode=norms"], "--clip-mode must be one of norm, value, agc"),
        (["lr.x=1"], "lr is a single value"),
        (["nonsense"], "overrides have the form key=value"),
        (["batch_size=0"], "--batch-size must be an integer of at least 1"),
        (["--recipe", "natt"], "Did you mean nat"),
        (["--recipe", "nat:finetune"], "no variant 'finetune'"),
        (["--recipe", "nat"], "give --model, one of nat_m, nat_t, nat_s, nat_b"),
    ],
)
def test_mistakes_are_named(argv, message):
    with pytest.raises(OptionError) as caught:
        resolved(*argv)
    assert message in str(caught.value)


def test_unknown_key_in_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("common: {weight_dekay: 0.1}\nmodels: {nat_m: {}}\n")
    with pytest.raises(OptionError, match=r"mine.yaml: unknown key 'weight_dekay'. Did you mean weight_decay"):
        resolved("--recipe", str(file), "--model", "nat_m")
    file.write_text("comon: {}\nmodels: {}\n")
    with pytest.raises(OptionError, match=r"unknown key 'comon'. Did you mean common"):
        resolved("--recipe", str(file), "--model", "nat_m")
    file.write_text("a: [")
    with pytest.raises(OptionError, match="not valid YAML"):
        resolved("--recipe", str(file))


def test_numbers_in_yaml_notation_that_yaml_reads_as_text(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: nat_m\nlr: 1e-3\nepochs: 5.0\n")  # YAML 1.1 reads 1e-3 as a string
    options = resolved("--recipe", str(file))
    assert (options.lr, options.epochs) == (1e-3, 5) and isinstance(options.epochs, int)


def test_no_arguments_mean_the_demo_and_data_means_defaults():
    assert resolved().recipe == "demo" and resolved().model == "nat_m" and resolved().hflip == 0.0
    other = resolved("--model", "test_vit")
    assert other.recipe == "demo" and other.model_kwargs == {}
    assert resolved("--data", "folder").recipe is None


def test_stored_recipe_comes_back_and_flags_change_it():
    first = resolved("--recipe", "nat", "--model", "nat_t")
    stored = first.values() | {"recipe": first.recipe, "class_names": ["a"], "global_batch": 3}
    again = resolve(stored=yaml.safe_load(yaml.safe_dump(stored)), given={"epochs": 3})
    assert again == first.replace(epochs=3)


#: What timm's train.py writes, as far as it matters here.
TIMM_ARGS = """
{aa: null, amp: true, amp_dtype: float16, aug_repeats: 0, batch_size: 32, bn_eps: null, data: null, drop_block: null,
 data_dir: /data/imagenet, dist_bn: "", epoch_repeats: 0.0, epochs: 30, experiment: "", grayscale_prob: null,
 in_chans: null, interpolation: "", kd_temperature: 4.0, local_rank: 0, lr: null, lr_base: 0.1, lr_base_scale: "",
 lr_base_size: 256, min_lr: 0, model: test_vit, model_kwargs: {}, naflex_loader: false, naflex_max_seq_len: 576,
 no_prefetcher: false, opt: lamb, output: "", resume: "", split_bn: false, sync_bn: false, val_split: validation,
 warmup_epochs: 1, worker_seeding: all, workers: 4, a_flag_of_tomorrow: false}
"""


def test_args_yaml_of_timm_is_a_recipe(tmp_path):
    file = tmp_path / "args.yaml"
    file.write_text(TIMM_ARGS)
    options = resolved("-c", str(file), "--epochs", "3")
    assert (options.model, options.opt, options.epochs, options.min_lr) == ("test_vit", "lamb", 3, 0)
    assert (options.lr_base_scale, options.dist_bn, options.in_chans) == ("sqrt", "none", 3)
    assert (options.data_dir, options.output, options.experiment) == ("/data/imagenet", "runs", None)
    for change, message in (
        ("split_bn: true", "timm's split_bn=True has no counterpart"),
        ("drop_block: 0.1", "kwargs"),
    ):
        file.write_text(
            TIMM_ARGS.replace(change.partition(" ")[0] + " false", change).replace("drop_block: null", change)
        )
        with pytest.raises(OptionError, match=message):
            resolved("-c", str(file))


def test_positional_data_of_timm(tmp_path):
    assert resolved(str(tmp_path), "--model", "nat_m").data == str(tmp_path)


def test_help_lists_every_option():
    text = build_train_parser().format_help()
    assert all(f"--{name.replace('_', '-')}" in text for name in OPTIONS)
