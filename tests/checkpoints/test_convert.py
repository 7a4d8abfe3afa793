"""What is read, what is refused, and how files of every published form map to a model."""

from __future__ import annotations

import argparse
import datetime
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from backbones.checkpoints import WeightsError, convert_file, load_into, read_checkpoint
from backbones.checkpoints.convert import fitted, fitted_dense, misfit
from backbones.dense import DenseBackbone
from backbones.models import family_of
from tests.checkpoints.zoo import CLASSIFIERS, as_published, listing, publish, same, tiny_state
from tests.parity.cases import FIXTURES
from tests.parity.parity import load, make_input, official_state_dict, worst_error

STATE = tiny_state()
SMALL = {"nat/nat_mini", "biformer/biformer_tiny", "overlock/overlock_xt", "maxvit/maxvit_tiny_tf_224"}


def tiny(**kwargs) -> torch.nn.Module:
    return timm.create_model("nat_m", **{**family_of("nat_m").tiny, **kwargs})


def authors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The test-size NAT under the names that its authors use."""
    out = {}
    for key, value in state.items():
        key = key.replace("stem.conv1.", "patch_embed.proj.0.").replace("stem.conv2.", "patch_embed.proj.1.")
        key = key.replace("stem.", "patch_embed.").replace("head.fc.", "head.").replace("stages.", "levels.")
        for i in (1, 2, 3):  # the authors count a downsampler to the stage before
            key = key.replace(f"levels.{i}.downsample.", f"levels.{i - 1}.downsample.")
        out[key] = value
    return out


# ------------------------------------------------------------------------------------------------------- the real thing


@pytest.mark.parametrize("path", sorted(SMALL))
@torch.inference_mode()
def test_authors_file_from_the_store(path, store):
    """A file as its authors publish it, found in the store by `pretrained=True`, computes what their code computes."""
    fixture = load(FIXTURES / f"{path}.json.gz")
    name = CLASSIFIERS[path]
    tag = next(iter(family_of(name).variants[name.partition(".")[0]].weights))
    store.folder.mkdir()
    torch.save({"model": official_state_dict(fixture), "epoch": 299}, store.folder / f"{name}.{tag}.pth")
    for _ in ("converted", "stored"):
        model = timm.create_model(name, pretrained=True).eval()
        run = fixture["runs"][0]
        assert worst_error(run["logits"], model(make_input(run["input"]))) < 2e-5
    assert store.check(f"{name}.{tag}") is not None


# ----------------------------------------------------------------------------------------------------------- wrappers


@pytest.mark.parametrize("names", ["authors'", "ours"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "state_dict_ema", "net", "net_E", "model_ema"])
def test_wrappers_and_prefixes(tmp_path, wrapper, prefix, names):
    path = tmp_path / "file.pth"
    path.write_bytes(as_published(authors(STATE) if names == "authors'" else STATE, wrapper, prefix))
    model = tiny()
    load_into(model, path)
    assert same(model, STATE)


def test_the_trained_model_comes_before_its_average(tmp_path):
    """As the authors' loaders do."""
    other = tiny_state(seed=9)
    torch.save({"model_ema": other, "model": STATE, "optimizer": {"lr": 0.1}}, tmp_path / "file.pth")
    model = tiny()
    load_into(model, tmp_path / "file.pth")
    assert same(model, STATE)


def test_the_average_comes_first_where_it_is_what_the_authors_publish(tmp_path):
    model = timm.create_model("sgformer_s", **family_of("sgformer_s").tiny)
    raw = {key: value + 1 for key, value in model.state_dict().items()}
    average = {key: value - 1 for key, value in raw.items()}
    torch.save({"state_dict": raw, "state_dict_ema": average}, tmp_path / "w.pth")
    load_into(model, tmp_path / "w.pth")
    assert same(model, average)


def test_counters_may_be_missing():
    model = timm.create_model("overlock_xt", **family_of("overlock_xt").tiny)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert len(state) < len(model.state_dict())
    assert not misfit(model, fitted(state, model, "overlock_xt"))


def test_classifier_into_dense_backbone(store, server, monkeypatch):
    publish(monkeypatch, server.put("x.pth", as_published(authors(STATE))))
    backbone = DenseBackbone("nat_m", pretrained=True)
    kept = {key: value for key, value in STATE.items() if not key.startswith(("norm.", "head."))}
    assert same(backbone.model, kept)


def dense_checkpoint() -> tuple[dict[str, torch.Tensor], DenseBackbone]:
    backbone = DenseBackbone("nat_m", **family_of("nat_m").tiny)
    kept = {key: value for key, value in authors(STATE).items() if not key.startswith(("norm.", "head."))}
    norms = {
        f"norm{i}.{kind}": torch.full((channels,), float(i))
        for i, channels in enumerate(backbone.channels)
        for kind in ("weight", "bias")
    }
    return {**kept, **norms}, backbone


@pytest.mark.parametrize("form", ["backbone", "detector"])
def test_dense_checkpoint(tmp_path, form):
    state, backbone = dense_checkpoint()
    if form == "detector":
        state = {f"backbone.{key}": value for key, value in state.items()}
        state |= {"neck.lateral_convs.0.conv.weight": torch.ones(2), "rpn_head.rpn_cls.bias": torch.ones(2)}
    torch.save({"meta": {"epoch": 12}, "state_dict": state}, tmp_path / "file.pth")
    load_into(backbone, tmp_path / "file.pth")
    assert same(backbone.model, {k: v for k, v in STATE.items() if not k.startswith(("norm.", "head."))})
    assert [norm.bias[0].item() for norm in backbone.out_norms] == [0, 1, 2, 3]
    again = DenseBackbone("nat_m", **family_of("nat_m").tiny)
    save_file(backbone.state_dict(), tmp_path / "own.safetensors")
    load_into(again, tmp_path / "own.safetensors")
    assert same(again, backbone.state_dict())


def test_dense_misfit():
    state, backbone = dense_checkpoint()
    del state["norm2.bias"]
    with pytest.raises(WeightsError, match=r"does not fit the dense nat_m: 1 keys missing \(out_norms.2.bias\)"):
        fitted_dense(state, backbone)


# ------------------------------------------------------------------------------------------------------------ the check


@pytest.mark.parametrize("drop_head", [False, True])
def test_every_kind_of_misfit(drop_head):
    model = tiny(num_classes=5 if drop_head else 1000)
    state = dict(STATE)
    assert not misfit(model, state)
    state["extra"] = state.pop("norm.bias")
    state["norm.weight"] = torch.ones(3)
    found = misfit(model, state)
    assert (found.missing, found.unexpected) == (["norm.bias"], ["extra"])
    assert found.shapes == ["norm.weight: (3,) in the file, (64,) in the model"]


def test_missing_head_is_told():
    headless = {key: value for key, value in STATE.items() if not key.startswith("head.")}
    assert misfit(tiny(), headless).missing == ["head.fc.weight", "head.fc.bias"]
    assert not misfit(tiny(num_classes=3), headless)
    assert not misfit(tiny(num_classes=0), STATE)
    assert not misfit(tiny(), headless, head_dropped=True)


def test_channels_are_adapted_but_nothing_else_of_the_stem():
    assert not misfit(tiny(in_chans=1), STATE)
    assert len(misfit(tiny(in_chans=1), {**STATE, "stem.conv1.weight": torch.ones(9, 3, 3, 3)}).shapes) == 1


# --------------------------------------------------------------------------------------------------------------- safety


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["torch", "legacy", "pickle"])
def test_nothing_is_unpickled(tmp_path, form):
    path, mark = tmp_path / "file.pth", tmp_path / "mark"
    content = {"model": STATE, "extra": Evil(mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"extra": Evil(mark)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert not mark.exists()
    assert str(path) in str(caught.value)
    if form == "torch":
        assert "holds Python objects besides its weights" in str(caught.value)
        assert "if you trust it, load it with torch.load(..., weights_only=False), save its state" in str(caught.value)


def test_arguments_of_a_training_script_are_harmless(tmp_path):
    torch.save({"model": STATE, "args": argparse.Namespace(lr=0.1)}, tmp_path / "file.pth")
    assert read_checkpoint(tmp_path / "file.pth")["args"].lr == 0.1


def test_objects_are_named(tmp_path):
    torch.save({"model": STATE, "when": datetime.date(2023, 1, 1)}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"besides its weights \(datetime.date\)"):
        read_checkpoint(tmp_path / "file.pth")


def archive(path: Path, kind: str) -> None:
    """An archive with a member that leads out of the folder it is unpacked in."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("../escaped.pth", b"x")
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as file:
            member = tarfile.TarInfo("../escaped.pth")
            member.size = 1
            file.addfile(member, io.BytesIO(b"x"))


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives_are_not_unpacked(tmp_path, kind):
    folder = tmp_path / "inside"
    folder.mkdir()
    archive(folder / "file.pth", kind)
    with pytest.raises(WeightsError, match=r"is a compressed archive|is truncated or not a checkpoint"):
        read_checkpoint(folder / "file.pth")
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "file.pth"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is truncated or not a checkpoint"),
        (b"hello", "is truncated or not a checkpoint"),
        (b"\x10\0\0\0\0\0\0\0{}", "is truncated or not a checkpoint"),
        (b"<!DOCTYPE html><html>", "is a web page"),
    ],
)
def test_no_checkpoint(tmp_path, content, reason):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=reason):
        read_checkpoint(tmp_path / "file.pth")


def test_no_state_dict(tmp_path):
    torch.save([1, 2], tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="holds a list instead of a state dict"):
        read_checkpoint(tmp_path / "file.pth")


def test_no_file(tmp_path):
    with pytest.raises(WeightsError, match=r"Cannot read .*missing.pth: No such file"):
        read_checkpoint(tmp_path / "missing.pth")
    with pytest.raises(WeightsError, match="Is a directory"):
        read_checkpoint(tmp_path)


def test_no_weights(tmp_path):
    torch.save({"epoch": 3, "optimizer": {"lr": 1.0}}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"holds no weights .* \(it has epoch, optimizer\)"):
        load_into(tiny(), tmp_path / "file.pth")


def test_convert_file_tries_the_model_out(tmp_path, store, monkeypatch):
    """Weights can be finite and still compute nothing finite."""
    publish(monkeypatch, None)
    good, bad = tmp_path / "good.pth", tmp_path / "bad.pth"
    good.write_bytes(as_published(authors(STATE)))
    huge = {key: torch.full_like(value, 3e38) if key.endswith("fc1.weight") else value for key, value in STATE.items()}
    bad.write_bytes(as_published(huge))
    with pytest.raises(WeightsError, match="computes numbers that are not finite"):
        convert_file(bad, "nat_m", store)
    assert not listing(store.folder)
    assert convert_file(good, "nat_m", store) == store.path("nat_m.in1k")
    assert store.record("nat_m.in1k").source == "good.pth"
