from __future__ import annotations

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from backbones.train.evaluation.models import ModelError, check_model_name, describe_classes, load_model, recipe_of
from backbones.train.options.recipe import RecipeError

NAMES = [f"kind {i}" for i in range(7)]


def make_run(folder, name="test_resnet", seed=0, size=32, **recipe):
    """A run folder with random weights; returns the model."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    fixed = {"dynamic_img_size": False} if name == "test_vit" else {}  # it then stores its size
    model = timm.create_model(name, num_classes=7, **({**fixed, "img_size": size} if fixed else {})).eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "best.safetensors")
    content = {
        "model": name,
        "model_kwargs": fixed,
        "num_classes": 7,
        "in_chans": 3,
        "img_size": size,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.2, 0.2],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "class_names": NAMES,
        **recipe,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return model


def logits(model, size=32):
    with torch.inference_mode():
        return model(torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)))


def test_run_folder_gives_weights_preprocessing_and_classes(tmp_path):
    model = make_run(tmp_path / "run")
    loaded = load_model(str(tmp_path / "run"))
    assert torch.equal(logits(loaded.model), logits(model))
    assert not loaded.model.training
    assert loaded.data_config["input_size"] == (3, 32, 32)
    assert tuple(loaded.data_config["mean"]) == (0.4, 0.5, 0.6)
    assert loaded.data_config["interpolation"] == "bilinear"
    assert loaded.data_config["crop_pct"] == 1.0
    assert loaded.class_names == NAMES
    assert loaded.report.complete
    assert loaded.report.source == str(tmp_path / "run" / "best.safetensors")
    assert len(loaded.report.sha256) == 64
    assert recipe_of(str(tmp_path / "run"))["num_classes"] == 7
    assert recipe_of("test_resnet") == {}


def test_flags_override_the_recipe(tmp_path):
    make_run(tmp_path / "run")
    config = load_model(str(tmp_path / "run"), img_size=48, data_args={"crop_pct": 0.5, "mean": None}).data_config
    assert config["input_size"] == (3, 48, 48)
    assert config["crop_pct"] == 0.5
    assert tuple(config["mean"]) == (0.4, 0.5, 0.6)


def test_checkpoint_in_a_run_and_ema(tmp_path):
    run = tmp_path / "run"
    make_run(run, seed=0)
    (run / "best.safetensors").rename(run / "last.safetensors")
    plain = logits(load_model(str(run)).model)  # no best yet: the last
    assert torch.equal(plain, logits(load_model(str(run / "last.safetensors")).model))
    with pytest.raises(ModelError, match="no EMA weights"):
        load_model(str(run), use_ema=True)
    with pytest.raises(ModelError, match="last_ema"):
        load_model(str(run / "last.safetensors"), use_ema=True)
    averaged = make_run(tmp_path / "other", seed=1)
    (tmp_path / "other" / "best.safetensors").rename(run / "last_ema.safetensors")
    for spec in (run, run / "last.safetensors", run / "last_ema.safetensors"):
        loaded = load_model(str(spec), use_ema=spec.stem != "last_ema")
        assert torch.equal(logits(loaded.model), logits(averaged))
    (run / "last.safetensors").unlink()
    with pytest.raises(ModelError, match="nothing yet"):
        load_model(str(run))


def test_torch_checkpoint_with_wrapper_and_prefix(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=7).eval()
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pth")
    loaded = load_model("test_resnet", tmp_path / "w.pth", num_classes=7)
    assert torch.equal(logits(loaded.model), logits(model))
    assert loaded.report.complete


def test_authors_keys_go_through_the_models_mapping(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=7).eval()
    state = model.state_dict()
    # timm's ViT accepts the linear patch embedding of older checkpoints and reshapes it.
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].flatten(1)
    save_file(state, tmp_path / "authors.safetensors")
    loaded = load_model("test_vit", tmp_path / "authors.safetensors", num_classes=7)
    assert torch.equal(logits(loaded.model, 160), logits(model, 160))
    assert loaded.report.complete
    assert loaded.report.source.endswith("authors.safetensors")
    assert len(loaded.report.sha256) == 64
    assert "state_dict" not in loaded.model.pretrained_cfg
    del state["norm.weight"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(ModelError, match=r"short.safetensors does not fit test_vit: 1 keys missing \(norm.weight\)"):
        load_model("test_vit", tmp_path / "short.safetensors", num_classes=7)


def test_pickled_code_is_refused(tmp_path):
    class Anything:
        pass

    globals()["Anything"] = Anything  # torch.save wants to find it again
    Anything.__qualname__ = "Anything"
    torch.save({"state_dict": Anything()}, tmp_path / "bad.pth")
    with pytest.raises(ModelError, match="holds Python objects besides its weights"):
        load_model("test_resnet", tmp_path / "bad.pth")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_damaged_file(tmp_path, suffix):
    (tmp_path / f"bad.{suffix}").write_bytes(b"not weights at all")
    with pytest.raises(ModelError, match=f"bad.{suffix}"):
        load_model("test_resnet", tmp_path / f"bad.{suffix}")


def test_optimiser_state_is_not_weights(tmp_path):
    torch.save({"optimizer": {"state": {}}, "epoch": 1, "step": torch.tensor(3)}, tmp_path / "last.state.pt")
    with pytest.raises(ModelError, match="holds no weights at its top level"):
        load_model("test_resnet", tmp_path / "last.state.pt")


def test_other_number_of_classes_names_the_remedy(tmp_path):
    make_run(tmp_path / "run")
    with pytest.raises(ModelError, match="pass --num-classes 7"):
        load_model("test_resnet", tmp_path / "run" / "best.safetensors")
    with pytest.raises(ModelError, match=r"fc.weight: \(7, \d+\) in the file, \(5, \d+\) in the model"):
        load_model(str(tmp_path / "run"), num_classes=5)


def test_missing_and_unexpected_keys_are_named(tmp_path):
    model = timm.create_model("test_resnet", num_classes=7)
    state = model.state_dict()
    state["extra.weight"] = state.pop("conv1.0.weight")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"1 keys missing \(conv1.0.weight\), 1 keys unexpected \(extra.weight\)"):
        load_model("test_resnet", tmp_path / "w.safetensors", num_classes=7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("test_resnett", "Did you mean test_resnet"),
        ("nat_mm", "nat_m"),
        ("test_resnet.nope", "it has test_resnet.r160_in1k"),
        ("runs/absent", "does not exist"),
        ("absent.safetensors", "does not exist"),
    ],
)
def test_unknown_names(spec, message):
    with pytest.raises(ModelError, match=message):
        load_model(spec)


def test_known_names_pass():
    for name in ("test_resnet", "test_resnet.r160_in1k", "hf-hub:someone/something"):
        assert check_model_name(name) == name


def test_folder_and_file_without_recipe(tmp_path):
    with pytest.raises(ModelError, match=r"without recipe.yaml"):
        load_model(str(tmp_path))
    model = timm.create_model("test_resnet")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="--model NAME --checkpoint"):
        load_model(str(tmp_path / "w.safetensors"))
    (tmp_path / "recipe.yaml").write_text("- not a mapping")
    with pytest.raises(RecipeError, match="names no model"):
        load_model(str(tmp_path))


def test_exported_folder_of_timm(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=7).eval()
    timm.models.save_for_hf(model, tmp_path / "export", model_config={"label_names": NAMES}, safe_serialization=True)
    loaded = load_model(str(tmp_path / "export"))
    assert torch.equal(logits(loaded.model), logits(model))
    assert loaded.class_names == NAMES
    assert loaded.report.complete
    with pytest.raises(ModelError, match="have 7 classes, so a head for 5 would be random"):
        load_model(str(tmp_path / "export"), num_classes=5)


def test_no_published_weights_and_random_ones():
    with pytest.raises(ModelError, match="--no-pretrained"):
        load_model("convnext_atto_rms")
    loaded = load_model("test_resnet", pretrained=False)
    assert loaded.report is None
    assert loaded.class_names[0] == "n01440764"
    assert loaded.data_config["input_size"] == (3, 160, 160)


def test_unknown_model_argument():
    with pytest.raises(ModelError, match="--model-kwargs"):
        load_model("test_resnet", pretrained=False, model_kwargs={"bogus": 1})


def test_model_that_stores_its_size_is_resized_after_loading(tmp_path):
    model = make_run(tmp_path / "run", "test_vit", size=64)
    at_64 = load_model(str(tmp_path / "run"))
    assert torch.equal(logits(at_64.model, 64), logits(model, 64))
    assert at_64.data_config["input_size"] == (3, 64, 64)
    at_96 = load_model(str(tmp_path / "run"), img_size=96)
    assert logits(at_96.model, 96).shape == (2, 7)
    assert at_96.model.pos_embed.shape[1] > at_64.model.pos_embed.shape[1]
    assert at_96.report.complete


def test_grey_images():
    config = load_model("test_resnet", pretrained=False, in_chans=1).data_config
    assert config["input_size"] == (1, 160, 160)
    assert len(config["mean"]) == len(config["std"]) == 1


def test_reparameterised_model_is_smaller_and_equal():
    torch.manual_seed(0)
    plain = load_model("repghostnet_050", pretrained=False).model
    torch.manual_seed(0)
    merged = load_model("repghostnet_050", pretrained=False, reparam=True).model
    assert len(list(merged.parameters())) < len(list(plain.parameters()))
    torch.testing.assert_close(logits(merged, 64), logits(plain, 64), rtol=1e-4, atol=1e-5)


def test_class_names_in_words():
    assert describe_classes(["n01440764", "n02102040"], 2) == [
        "tench, Tinca tinca",
        "English springer, English springer spaniel",
    ]
    assert describe_classes(["a", "b"], 2) == ["a", "b"]
    assert describe_classes(None, 2) == ["class 0", "class 1"]
