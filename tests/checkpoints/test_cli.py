"""The command line, and the folders it exports."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import yaml
from safetensors import safe_open

from backbones.checkpoints import Store
from backbones.checkpoints.cli import main
from backbones.checkpoints.store import file_sha256
from tests.checkpoints.zoo import TINY_NAME, as_published, listing, publish, same, tiny_state

STATE = tiny_state()


@pytest.fixture
def run(store, capsys):
    """Runs a command; returns its exit code, output and error."""

    def command(*argv: object) -> tuple[int, str, str]:
        code = main([str(value) for value in argv])
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def published(server, monkeypatch):
    publish(monkeypatch, server.put("nat_mini.pth", as_published(STATE, "model")))
    return server


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nat.pth"
    path.write_bytes(as_published(STATE))
    return path


def error(text: str) -> str:
    """The one sentence of a failure."""
    assert text.startswith("error: ") and text.endswith(".\n") and text.count("\n") == 1
    return text


def test_list(run, published, store):
    code, out, _ = run("list", "nat_[ms]")
    assert code == 0
    first, second, third, last = out.splitlines()
    assert first.split() == ["weights", "parameters", "image", "top-1", "licence", "from", "in", "store"]
    assert second.split() == ["nat_m.in1k", "0.3", "M", "224", "81.8", "mit", "file", "no"]
    assert third.split() == ["nat_s.in1k", "50.7", "M", "224", "83.7", "mit", "file", "no"]
    assert last == f"store: {store.folder}"
    store.folder.mkdir()
    (store.folder / "nat_small.pth").write_bytes(b"")
    run("get", "nat_m")
    _, out, _ = run("list", "nat_[ms]")
    assert [line.split(maxsplit=7)[-1].strip() for line in out.splitlines()[1:3]] == [
        "yes",
        "nat_small.pth, not converted",
    ]


def test_list_of_nothing(run):
    code, _, err = run("list", "resnet*")
    assert code == 2 and "No model matches 'resnet*'" in error(err)


def test_get(run, published, store):
    code, out, _ = run("get", "nat_m")
    assert (code, out) == (0, f"{store.path(TINY_NAME)}\n")
    assert run("get", "nat_m.in1k")[0] == 0 and len(published.requests) == 1
    assert run("get", "nat_m", "--force")[0] == 0 and len(published.requests) == 2
    assert same(timm.create_model("nat_m", pretrained=True), STATE)


def test_get_reports_every_failure(run, published, store, monkeypatch):
    publish(monkeypatch, published.url("missing.pth"), "nat_s.in1k")
    code, out, err = run("get", "nat_[ms]*")
    assert code == 2
    assert out == f"{store.path(TINY_NAME)}\n"
    assert "missing.pth answers with 404" in err.splitlines()[-1]


def test_unreachable_hub(run, store, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    code, out, err = run("get", "maxvit_t")
    assert (code, out) == (2, "")
    assert "Cannot fetch timm/maxvit_tiny_tf_224.in1k from the Hugging Face Hub: " in error(err)
    assert not listing(store.folder)


@pytest.mark.parametrize("name", ["resnet50", "nat_m.foo", "../nat_m", "nat_x*"])
def test_unknown_names(run, store, name):
    code, _, err = run("get", name)
    assert code == 2 and error(err)
    assert not listing(store.folder)


def test_convert(run, published, store, file):
    code, out, _ = run("convert", file, "--model", "nat_m")
    assert (code, out) == (0, f"{store.path(TINY_NAME)}\n")
    assert same(timm.create_model("nat_m", pretrained=True), STATE)
    assert not published.requests


def test_convert_the_wrong_file(run, published, store, file):
    before = listing(store.folder)
    code, _, err = run("convert", file, "--model", "dinat_s_t")
    assert code == 2 and f"{file} does not fit dinat_s_t" in error(err)
    assert listing(store.folder) == before


def test_verify(run, published, store):
    run("get", "nat_m")
    code, out, _ = run("verify")
    assert code == 0
    assert out.splitlines()[0] == "ok      nat_m.in1k"
    path = store.path(TINY_NAME)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    code, out, err = run("verify")
    assert (code, out.splitlines()[0]) == (1, "FAILED  nat_m.in1k")
    assert "was truncated or altered" in error(err)
    path.write_bytes(content)
    assert run("verify", "nat_m")[0] == 0
    (store.folder / "some_model.tag.safetensors").write_bytes(content)
    code, out, err = run("verify")
    assert code == 1 and "The zoo has no model 'some_model'" in err
    assert run("verify", "nat_s")[0] == 1


def test_verify_loads(run, published, store):
    """A file that is as recorded but belongs to another model is found out."""
    with store.lock(TINY_NAME):
        store.put(TINY_NAME, {"a": torch.ones(1)}, source="x", source_sha256="0", license=None, num_classes=1000)
    code, _, err = run("verify")
    assert code == 1 and "does not fit nat_m" in err


def test_verify_goes_on(run, published, store):
    """A file that is as recorded and cannot be read does not hide the next."""
    names = ["nat_m.in1k", "nat_s.in1k", "shvit_s1.in1k", "van_b0.in1k"]
    store.folder.mkdir()
    for name in names:
        store.path(name).write_bytes(b"\x40\0\0\0\0\0\0\0{damaged")
        digest = file_sha256(store.path(name))
        record = dict(source="x", source_sha256="", sha256=digest, date="", license="", num_classes=1000)
        store.sidecar(name).write_text(json.dumps(record))
    store.sidecar(names[3]).write_text(json.dumps({**record, "num_classes": "1000"}))
    code, out, err = run("verify")
    assert code == 1
    assert out.splitlines()[:-1] == [f"FAILED  {name}" for name in names]
    assert out.endswith(f"0 of 4 in {store.folder} are as recorded and load\n")
    lines = err.splitlines(keepends=True)
    assert len(lines) == 4 and all("is truncated or not a checkpoint" in error(line) for line in lines[:3])
    assert "num_classes is not of type int" in lines[3]


def test_identify(run, tmp_path):
    state = timm.create_model("nat_s", device="meta").state_dict()
    torch.save({key: torch.zeros(1).expand(value.shape) for key, value in state.items()}, tmp_path / "x.pth")
    code, out, _ = run("identify", tmp_path / "x.pth")
    assert code == 0
    assert out.split() == ["nat_s", "classification", "100.0", "%", "of", "the", "keys", "agree"]


def test_identify_a_stranger(run, tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "x.pth")
    code, out, err = run("identify", tmp_path / "x.pth")
    assert (code, out) == (2, "") and "looks like no model of the zoo" in error(err)


def test_diff(run, tmp_path, file):
    other = dict(STATE)
    other["norm.weight"] = other["norm.weight"] + 0.5
    other["head.fc.weight"] = other["head.fc.weight"][:7]
    other["new"] = other.pop("norm.bias")
    (tmp_path / "b.pth").write_bytes(as_published(other, "model", "module."))
    assert run("diff", file, file) == (0, f"{len(STATE)} equal\n", "")
    code, out, _ = run("diff", file, tmp_path / "b.pth")
    assert code == 1
    assert f"1 only in {file}\n  norm.bias\n" in out
    assert f"1 only in {tmp_path / 'b.pth'}\n  new\n" in out
    assert "1 different shapes\n  head.fc.weight: (1000, 64) and (7, 64)\n" in out
    assert "1 different numbers\n  norm.weight: by up to 0.5 (" in out
    assert out.endswith(f"{len(STATE) - 3} equal\n")


def test_diff_under_the_names_of_a_model(run, tmp_path, file):
    renamed = {key.replace("head.fc.", "head."): value for key, value in STATE.items()}
    (tmp_path / "b.pth").write_bytes(as_published(renamed))
    assert run("diff", file, tmp_path / "b.pth")[0] == 1
    assert run("diff", file, tmp_path / "b.pth", "--model", "nat_m")[0] == 0


def test_diff_without_a_file(run, tmp_path, file):
    code, _, err = run("diff", file, tmp_path / "none.pth")
    assert code == 2 and "none.pth: No such file" in error(err)


# --------------------------------------------------------------------------------------------------------------- export


def test_export(run, published, store, tmp_path):
    folder = tmp_path / "export"
    code, out, _ = run("export", folder, "--model", "nat_m")
    assert (code, out) == (0, f"{folder}\n")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "store"]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert same(model, STATE)
    assert model.pretrained_cfg["mean"] == [0.485, 0.456, 0.406]
    again = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3, in_chans=1)
    assert same(again, STATE, skip=("head.fc.", "stem.conv1.weight"))
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
    assert len(features(torch.zeros(1, 3, 64, 64))) == 4
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert weights.metadata()["format"] == "pt"
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "nat_m" and config["num_classes"] == 1000
    assert str(tmp_path) not in (folder / "config.json").read_text()


def test_model_card(run, published, tmp_path):
    """What the Hub reads between the dashes, and what people read below."""
    run("export", tmp_path / "export", "--model", "nat_m")
    _, head, body = (tmp_path / "export" / "README.md").read_text().split("---\n", 2)
    shown = yaml.safe_load(head)
    assert (shown["pipeline_tag"], shown["library_name"], shown["license"]) == ("image-classification", "timm", "mit")
    assert shown["datasets"] == ["imagenet-1k"]
    (result,) = shown["model-index"][0]["results"]
    assert (result["dataset"]["type"], result["metrics"][0]["value"]) == ("imagenet-1k", 81.8)
    assert f"`nat_m.in1k`, converted from {published.url('nat_mini.pth')}" in body
    assert "| ImageNet-1K top-1, as published | 81.8 % |" in body
    assert "https://arxiv.org/abs/2204.07143" in body


def test_export_of_own_weights(run, published, tmp_path):
    own = tiny_state(num_classes=7)
    (tmp_path / "own.pth").write_bytes(as_published(own))
    assert run("export", tmp_path / "e", "--model", "nat_m", "--checkpoint", tmp_path / "own.pth")[0] == 0
    assert same(timm.create_model(f"local-dir:{tmp_path / 'e'}", pretrained=True), own)
    card = (tmp_path / "e" / "README.md").read_text()
    shown = yaml.safe_load(card.split("---\n")[1])
    assert shown["license"] == "unknown" and not {"datasets", "model-index"} & set(shown) and "81.8" not in card
    assert "| classes | 7 |" in card
    assert not published.requests


def test_export_keeps_what_is_there(run, published, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_text("a")
    code, _, err = run("export", tmp_path / "x", "--model", "nat_m")
    assert code == 2 and "is not an empty folder" in error(err)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a"]
    (tmp_path / "x" / "a").unlink()
    assert run("export", tmp_path / "x", "--model", "nat_m")[0] == 0


def test_failed_export_leaves_nothing(run, published, store, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("export", tmp_path / "file" / "x", "--model", "nat_m")
    assert code == 2 and "Cannot write" in err
    published.put("nat_mini.pth", status=404)
    store.path(TINY_NAME).unlink(missing_ok=True)
    assert run("export", tmp_path / "y", "--model", "nat_m")[0] == 2
    assert not (tmp_path / "y").exists()


def test_store_option(run, published, tmp_path):
    assert run("--store", tmp_path / "here", "get", "nat_m")[0] == 0
    assert Store(tmp_path / "here").check(TINY_NAME) is not None
