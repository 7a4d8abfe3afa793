"""Fixtures made by `tools/make_fixture.py`, and what the runner makes of them."""

from __future__ import annotations

import gzip
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from tests.parity import cases as cases_module
from tests.parity.parity import digest
from tests.parity.runner import beyond, errors, run_case

_spec = spec_from_file_location("make_fixture", Path(__file__).parents[2] / "tools" / "make_fixture.py")
make_fixture = module_from_spec(_spec)
_spec.loader.exec_module(make_fixture)

AUTHORS = """
import torch
from torch import nn
from mmregistry import BACKBONES
from mmregistry.runner import BaseModule, auto_fp16


class Block(BaseModule, nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc = nn.Linear(dim, dim)

    @auto_fp16
    def forward(self, x):
        return x + self.fc(x)


@BACKBONES.register_module()
class Net(nn.Module):
    def __init__(self, dim=4, head=True):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 4, 4)
        self.norm = nn.BatchNorm2d(dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.identity = nn.Parameter(torch.eye(dim), requires_grad=False)
        self.block = Block(dim)
        self.unused = nn.Identity()
        self.head = nn.Linear(dim, 7) if head else None

    def forward(self, x):
        x = self.norm(self.embed(x))
        tokens = torch.cat((self.cls.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2) @ self.identity), 1)
        tokens = self.block(tokens)
        return self.head(tokens[:, 0]) if self.head else [tokens[:, 1:].transpose(1, 2).reshape(x.shape)]
"""
CASES = """
tolerance: 1e-5
parameters: {test_resnet: 0}
fixtures:
  net:
    - {model: test_resnet, outputs: {features: [layer1, layer4]}}
    - {model: test_resnet, outputs: {features: [layer1, layer3]}}
    - {model: test_resnet, outputs: {features: [layer1]}}
    - {model: test_resnet, args: {act_layer: gelu}, only: [logits]}
    - {model: test_resnet, only: [logits], parameters: 12}
    - {model: test_resnet, outputs: {features: [layer1, layer4]}, inputs: [logits], dtype: float64}
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """An authors' checkout; what importing it changes is undone."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "authors_net.py").write_text(AUTHORS)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith(("authors_net", "mmregistry")):
            del sys.modules[name]


def make(source: Path, out: Path, *options: str, target: str = "authors_net:Net", stub: bool = True) -> dict:
    stubs = ["--stub", "mmregistry"] if stub else []
    options = options if "--input" in options else ("--input", "2x3x16x24", *options)
    make_fixture.main(["--source", str(source), "--import", target, *stubs, *options, "--out", str(out)])
    return json.loads(gzip.decompress(out.read_bytes()))


def test_fixture_of_a_checkout(source, tmp_path):
    options = ("--input", "2x3x16x24", "1x3x12x8", "--features", "norm", "block:cls", "--keep", "identity")
    fixture = make(source, tmp_path / "new" / "net.json.gz", *options)
    assert (fixture["variant"], fixture["source"], fixture["config"]) == ("Net", "checkout", {})
    assert fixture["parameters"] == 4 * 49 + 2 * 4 + 4 + 16 + 5 * 4 + 5 * 7
    kinds = {key: kind for key, (kind, _, _) in fixture["state_dict"].items()}
    assert kinds["identity"] == kinds["norm.num_batches_tracked"] == "buffer"
    assert kinds["norm.running_var"] == "stat" and kinds["block.fc.weight"] == "param"
    first, second = fixture["runs"]
    assert first["logits"]["shape"] == [2, 7] and second["logits"]["shape"] == [1, 7]
    assert [one["shape"] for one in first["features"]] == [[2, 4, 4, 6]] * 2
    assert [one["shape"] for one in second["features"]] == [[1, 4, 3, 2]] * 2
    assert first["features"][0] != first["features"][1] and "dtype" not in first and "inputs" not in first
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["net.json.gz"]


def test_maps_in_double_precision(source, tmp_path):
    args = ("--args", '{"head": false}', "--double", "--scale", "2", "--variant", "net", "--notes", "A note.")
    fixture = make(source, tmp_path / "net.json.gz", *args)
    (run,) = fixture["runs"]
    assert (fixture["variant"], fixture["notes"], fixture["config"]) == ("net", "A note.", {"head": False})
    assert run["dtype"] == "float64" and run["inputs"] == [{"shape": [2, 3, 16, 24], "seed": 0, "scale": 2.0}]
    assert run["features"][0]["shape"] == [2, 4, 4, 6] and "logits" not in run
    assert fixture["state_dict"]["block.fc.weight"] == ["param", [4, 4], "float32"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "authors_net"}, "names no factory"),
        ({"target": "authors_net:Nett"}, "did you mean Net?"),
        ({"target": "authors_net:torch"}, "fails with --args"),
        ({"target": "authors_network:Net"}, "pass --stub authors_network"),
        ({"target": "authors_net:Net", "stub": False}, "pass --stub mmregistry"),
        (("--args", '{"depth": 2}'), "depth"),
        (("--features", "blocks"), "did you mean block, block.fc?"),
        (("--features", "unused"), "does not call unused"),
        (("--features", "norm:tokens"), "is not tokens"),
        (("--features", "block:tokens"), "25 tokens"),
        (("--input", "2x4x16x24"), "fails on the input 2x4x16x24"),
    ],
)
def test_one_sentence_for_each_mistake(source, tmp_path, options, said):
    options, keywords = ((), options) if isinstance(options, dict) else (options, {})
    with pytest.raises(SystemExit) as told:
        make(source, tmp_path / "net.json.gz", *options, **keywords)
    assert said in str(told.value) and "\n" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkout"]


def test_no_fixture_is_replaced_unasked(source, tmp_path):
    out = tmp_path / "net.json.gz"
    made = make(source, out)
    with pytest.raises(SystemExit, match="--overwrite"):
        make(source, out)
    assert make(source, out, "--overwrite") == made


def test_the_runner_finds_every_deviation(source, tmp_path, monkeypatch):
    """A fixture of a timm model, compared with that model and with others."""
    args = ("--args", '{"model_name": "test_resnet"}', "--input", "2x3x64x64", "--features", "layer1", "layer4")
    make(source, tmp_path / "made" / "net.json.gz", *args, target="timm:create_model")
    (tmp_path / "made" / "cases.yaml").write_text(CASES)
    monkeypatch.setattr(cases_module, "FIXTURES", tmp_path)
    rows, _ = cases_module.read("made")
    assert [case.extra for case in rows] == [False, True, True, True, True, True]
    equal, other_module, too_few, other_activation, count, double = (beyond(case, run_case(case)) for case in rows)
    assert equal == {} and double == {}
    assert set(other_module) == {"features[1]"}
    assert set(too_few) == {"features: 1 tensors for 2"}
    assert set(other_activation) == {"logits"} and set(count) == {"parameters"}
    with pytest.raises(AssertionError, match="features"):  # which has no source
        run_case(cases_module.replace(rows[0], outputs={"features": None}))


@pytest.mark.parametrize("row", ["{modle: nat_m}", "{model: nat_m, form: clasifier}", "{model: nat_m, number: 3}"])
def test_a_row_with_a_mistake_is_refused(tmp_path, monkeypatch, row):
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "cases.yaml").write_text(f"tolerance: 1e-5\nparameters: {{}}\nfixtures: {{net: {row}}}\n")
    monkeypatch.setattr(cases_module, "FIXTURES", tmp_path)
    with pytest.raises(ValueError, match=r"wrong/cases\.yaml, net: unknown (modle|clasifier|number)"):
        cases_module.read.__wrapped__("wrong")


def test_errors_of_numbers_mappings_and_outliers():
    x = torch.arange(128.0)
    kept, off, broken = digest(x), x.clone(), x.clone()
    off[0] += 50
    broken[5] = torch.nan
    assert dict(errors(kept, x)) == {"": 0.0}
    assert dict(errors(kept, off))[""] > 1 > 0.1 > dict(errors(kept, off, outliers=1))[""]
    assert dict(errors(kept, broken, outliers=9))[""] == float("inf") == dict(errors(kept, x[1:]))[""]
    assert dict(errors({"a": [1, 2], "b": 2.0}, {"a": [1, 2], "b": 2.002})) == {".a": 0.0, ".b": pytest.approx(1e-3)}
    assert dict(errors([1, 2], [1, 3])) == {"": float("inf")} == dict(errors([1, 2], [1]))
    assert list(errors({"a": kept}, {}, label="x")) == [("x: ['a']", float("inf"))]
