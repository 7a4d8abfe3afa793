"""`pretrained=True`: the store, the address, the caller's own source, and everything that can go wrong."""

from __future__ import annotations

import hashlib
import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from backbones.checkpoints import Store, WeightsError, get, locate
from backbones.checkpoints import download as download_module
from backbones.checkpoints.store import default_folder
from backbones.models import family_of
from tests.checkpoints.zoo import TINY_NAME, as_published, listing, publish, same, tiny_state

STATE = tiny_state()
BODY = as_published(STATE)


def create(**kwargs) -> torch.nn.Module:
    return timm.create_model(TINY_NAME, pretrained=True, **kwargs)


@pytest.fixture
def published(server, monkeypatch):
    """The tag's file on the web."""
    url = server.put("nat_mini.pth", BODY)
    publish(monkeypatch, url)
    return server


def test_downloads_once(published, store):
    assert same(create(), STATE)
    assert same(create(), STATE)
    assert len(published.requests) == 1
    assert sorted(listing(store.folder)) == ["nat_m.in1k.json", "nat_m.in1k.safetensors"]
    assert [path.name for path in store.work.iterdir() if path.suffix != ".lock"] == []


def test_sidecar(published, store):
    create()
    record = json.loads(store.sidecar(TINY_NAME).read_text())
    assert record["source"] == published.url("nat_mini.pth")
    assert record["source_sha256"] == hashlib.sha256(BODY).hexdigest()
    assert record["sha256"] == hashlib.sha256(store.path(TINY_NAME).read_bytes()).hexdigest()
    assert record["license"] == "mit"
    assert record["num_classes"] == 1000
    assert record["date"].startswith("20") and record["date"].endswith("+00:00")


def test_stored_file_has_our_names(published, store):
    create()
    assert load_file(store.path(TINY_NAME)).keys() == STATE.keys()


def test_model_without_tag(published, store):
    assert same(timm.create_model("nat_m", pretrained=True), STATE)
    assert len(published.requests) == 1


def test_model_says_which_file_it_has(published, store):
    assert create().pretrained_cfg["file"] == str(store.path(TINY_NAME))


@pytest.mark.parametrize("source", ["file", "state_dict"])
def test_own_source_is_left_to_timm(published, store, tmp_path, source):
    other = tiny_state(seed=9)
    (tmp_path / "own.pth").write_bytes(as_published(other, "model"))
    value = {"file": str(tmp_path / "own.pth"), "state_dict": other}[source]
    assert same(create(pretrained_cfg_overlay={source: value}), other)
    assert not published.requests and not listing(store.folder)


def test_own_address_is_left_to_timm(published, store, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    other = tiny_state(seed=9)
    url = published.put("own.pth", as_published(other))
    assert same(create(pretrained_cfg_overlay={"url": url}), other)
    assert [path for path, _ in published.requests] == ["/own.pth"]
    assert not listing(store.folder)


def test_registered_cfg_is_no_own_source(published, store):
    """What timm's own scripts hand back as `pretrained_cfg` is the tag's, in full."""
    cfg = timm.get_pretrained_cfg(TINY_NAME)
    assert same(timm.create_model("nat_m", pretrained=True, pretrained_cfg=cfg), STATE)
    assert same(timm.create_model("nat_m", pretrained=True, pretrained_cfg=cfg.to_dict()), STATE)
    assert len(published.requests) == 1


def test_cache_dir_is_the_store_of_a_call(published, store, tmp_path):
    assert same(create(cache_dir=tmp_path / "other"), STATE)
    assert not listing(store.folder)
    assert "nat_m.in1k.safetensors" in listing(tmp_path / "other")


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("BACKBONES_CHECKPOINTS", "~/weights")
    assert default_folder() == tmp_path.home() / "weights"
    monkeypatch.delenv("BACKBONES_CHECKPOINTS")
    assert (default_folder() / ".." / "tools" / "checkpoint.py").is_file()
    monkeypatch.setattr("backbones.checkpoints.store._CLONE", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "backbones" / "checkpoints"


# --------------------------------------------------------------------------------------------- what timm adapts


def test_num_classes(published, store):
    model = create(num_classes=7)
    assert model.head.fc.weight.shape[0] == 7
    assert same(model, STATE, skip=("head.fc.",))


def test_no_head(published, store):
    model = create(num_classes=0)
    assert same(model, {key: value for key, value in STATE.items() if not key.startswith("head.")})


def test_in_chans(published, store):
    model = create(in_chans=1)
    assert torch.allclose(model.stem.conv1.weight, STATE["stem.conv1.weight"].sum(1, keepdim=True))
    assert same(model, STATE, skip=("stem.conv1.weight",))
    assert create(in_chans=5).stem.conv1.weight.shape[1] == 5


def test_features_only(published, store):
    features = create(features_only=True)
    whole = create().eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for got, expected in zip(
            features.eval()(image), whole.forward_intermediates(image, intermediates_only=True), strict=True
        ):
            assert torch.equal(got, expected)


def test_unstated_class_count_is_that_of_the_file(server, store, monkeypatch):
    state = tiny_state(num_classes=21)
    publish(monkeypatch, server.put("x.pth", as_published(state)), num_classes=None)
    assert same(create(), state)
    assert same(create(num_classes=21), state)
    assert create(num_classes=5).head.fc.weight.shape[0] == 5


def test_file_without_classifier(server, store, monkeypatch):
    """Where the table does not say what head a file has, one without any gives a model without one."""
    state = {key: value for key, value in tiny_state().items() if not key.startswith("head.")}
    publish(monkeypatch, server.put("x.pth", as_published(state)), num_classes=None)
    model = create()
    assert model.num_classes == 0 and same(model, state)
    model = create(num_classes=5)
    assert model.head.fc.weight.shape[0] == 5 and all(torch.equal(model.state_dict()[key], state[key]) for key in state)
    assert same(create(features_only=True).model, state, skip=("head.", "norm."))


def test_store_keeps_training_heads(server, store, monkeypatch):
    """What a plain model leaves out is still there for one that asks for it."""
    args = {**family_of("overlock_xt").tiny, "aux_head": True}
    state = timm.create_model("overlock_xt", **args).state_dict()
    state["aux_head.fc.bias"] = torch.arange(1000.0)
    publish(monkeypatch, server.put("x.pth", as_published(state)), "overlock_xt.in1k")
    assert not any(
        key.startswith("aux_head.") for key in timm.create_model("overlock_xt", pretrained=True).state_dict()
    )
    assert same(timm.create_model("overlock_xt", pretrained=True, aux_head=True), state)
    assert len(server.requests) == 1


def test_wrong_class_count(server, store, monkeypatch):
    publish(monkeypatch, server.put("x.pth", as_published(tiny_state(num_classes=21))))
    with pytest.raises(WeightsError, match=r"2 keys of another shape \(head.fc.weight: \(21, 64\) in the file, \(1000"):
        create()
    assert not listing(store.folder)


# ------------------------------------------------------------------------------------------------ files put in by hand


@pytest.mark.parametrize("name", ["nat_m.in1k.pth", "nat_mini.pth", "nat_m.in1k.safetensors"])
def test_file_put_into_the_store(published, store, name):
    store.folder.mkdir()
    if name.endswith(".safetensors"):
        save_file(STATE, store.folder / name)
    else:
        (store.folder / name).write_bytes(BODY)
    assert same(create(), STATE)
    assert not published.requests
    assert store.check(TINY_NAME) == store.path(TINY_NAME)
    assert (store.folder / name).exists()


def test_page_without_the_file(store, monkeypatch):
    publish(monkeypatch, None, page="https://example.org/drive")
    with pytest.raises(WeightsError) as caught:
        create()
    wanted = store.folder / "nat_m.in1k.pth"
    assert str(caught.value) == (
        "The weights nat_m.in1k are behind a page that a program cannot download from: get the file from "
        f"https://example.org/drive and save it as {wanted}."
    )
    assert not store.folder.exists()
    store.folder.mkdir()
    wanted.write_bytes(BODY)
    assert same(create(), STATE)
    assert store.record(TINY_NAME).source == "https://example.org/drive"


def test_published_pages(store):
    with pytest.raises(
        WeightsError, match=r"weights biformer_t.in1k are behind a page .* from https://1drv.ms/\S+ and"
    ):
        timm.create_model("biformer_t", pretrained=True)


def test_hub_weights_go_to_timm_unless_stored(store, monkeypatch):
    publish(monkeypatch, None, hf_hub_id="nobody/nothing")
    assert locate(TINY_NAME, store) is None
    store.folder.mkdir()
    (store.folder / "nat_m.in1k.pth").write_bytes(BODY)
    assert same(create(), STATE)


# ------------------------------------------------------------------------------------------------------------- failures


def test_wrong_file_is_named(server, store, monkeypatch):
    other = timm.create_model("nat_s", device="meta").state_dict()
    body = as_published({key: torch.zeros(value.shape) for key, value in other.items()})
    publish(monkeypatch, server.put("x.pth", body))
    with pytest.raises(WeightsError) as caught:
        create()
    message = str(caught.value)
    assert message.startswith(f"The file at {server.url('x.pth')} does not fit nat_m: ")
    assert "keys unexpected (stages.0.blocks.0.ls1.gamma, " in message
    assert message.endswith("this looks like nat_s.")
    assert not listing(store.folder)


def test_arguments_that_change_the_model(store, monkeypatch, server):
    publish(monkeypatch, server.put("x.pth", BODY))
    create()
    with pytest.raises(WeightsError, match=r"keys of another shape \(stages.0.blocks.0.attn.rpb: \(1, 5, 5\) in the"):
        create(kernel_size=5)


@pytest.mark.parametrize("size", [0, 100, len(BODY) // 2, len(BODY) - 100])
def test_truncated_at_the_source(server, store, monkeypatch, size):
    publish(monkeypatch, server.put("x.pth", BODY[:size]))
    with pytest.raises(WeightsError, match=r"x.pth is truncated or not a checkpoint"):
        create()
    assert not listing(store.folder)


def test_known_hash(server, store, monkeypatch):
    url = server.put("x.pth", BODY)
    publish(monkeypatch, url, sha256="0" * 64)
    with pytest.raises(WeightsError, match=f"{url} is not the published file .* expected is 0000"):
        create()
    assert not listing(store.folder)
    publish(monkeypatch, url, sha256=hashlib.sha256(BODY).hexdigest())
    assert same(create(), STATE)


def test_later_downloads_equal_the_first(published, store):
    create()
    store.path(TINY_NAME).unlink()
    published.put("nat_mini.pth", as_published(tiny_state(seed=9)))
    before = listing(store.folder)
    with pytest.raises(WeightsError, match=r"is not the published file .* delete .*json if it was changed on purpose"):
        create()
    assert listing(store.folder) == before
    published.put("nat_mini.pth", BODY)
    assert same(create(), STATE)


def test_failed_refresh_keeps_the_old_file(published, store):
    create()
    before = listing(store.folder)
    published.put("nat_mini.pth", status=404)
    with pytest.raises(WeightsError, match="404"):
        get(TINY_NAME, store, force=True, progress=False)
    published.put("nat_mini.pth", as_published(tiny_state(seed=9)))
    with pytest.raises(WeightsError, match="is not the published file"):
        get(TINY_NAME, store, force=True, progress=False)
    assert listing(store.folder) == before
    assert same(create(), STATE)


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_damaged_store(published, store, damage):
    create()
    path = store.path(TINY_NAME)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[-1000:]
    else:
        content[-1000] ^= 1
    path.write_bytes(content)
    before = listing(store.folder)
    with pytest.raises(WeightsError, match=r"was truncated or altered .* delete it to fetch or convert it again"):
        create()
    assert listing(store.folder) == before
    path.unlink()
    assert same(create(), STATE)


def test_damaged_sidecar(published, store):
    create()
    store.sidecar(TINY_NAME).write_text("{")
    with pytest.raises(WeightsError, match=r"nat_m.in1k.json is not a readable record .* delete it"):
        create()


def test_cut_connection_goes_on(published, store, monkeypatch):
    monkeypatch.setattr(download_module, "time", type("NoWait", (), {"sleep": staticmethod(lambda _: None)}))
    published.resources["/nat_mini.pth"].cuts[:] = [len(BODY) // 3]
    assert same(create(), STATE)
    assert [asked for _, asked in published.requests] == [None, f"bytes={len(BODY) // 3}-"]


def test_not_finite(server, store, monkeypatch):
    state = {**STATE, "norm.bias": torch.full_like(STATE["norm.bias"], float("nan"))}
    publish(monkeypatch, server.put("x.pth", as_published(state)))
    with pytest.raises(WeightsError, match=r"numbers that are not finite \(norm.bias\)"):
        create()
    assert not listing(store.folder)


@pytest.mark.parametrize("name", ["../nat_m.in1k", "nat_m.in1k/../../x", "/etc/passwd", "nat_m", "nat_m.in1k.json", ""])
def test_names_cannot_leave_the_store(tmp_path, name):
    with pytest.raises(WeightsError, match="is not the name of a set of weights"):
        Store(tmp_path).path(name)


def test_store_that_is_a_file(published, store):
    store.folder.write_text("")
    with pytest.raises(WeightsError, match=f"Cannot write to the store {store.folder}"):
        create()
    assert store.folder.read_text() == ""
