"""The command: what it writes, and what it says where a model has not what was asked for."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.visualize.cli import main
from backbones.visualize.page import View, write_page

SMALL = ["--no-pretrained", "--img-size", "64", "--num-classes", "3"]
NAT = ["--model-kwargs", "dims=[32,32,64,64]", "depths=[1,1,2,1]", "kernel_size=3"]
VAN = ["--model-kwargs", "dims=[8,16,24,32]", "depths=[1,1,1,1]", "mlp_ratios=[2,2,2,2]"]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def photos(tmp_path):
    """Two images, and one file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(random.integers(256, size=(70, 90, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def data_of(page) -> dict:
    return json.loads(re.search(r'id="data">(.*)</script>', page.read_text()).group(1))


def test_everything(tmp_path, photos, capsys):
    out = tmp_path / "out"
    assert main(["nat_t", str(photos), *SMALL, *NAT, "-o", str(out), "--at", "50,10", "--stage", "2"]) == 0
    names = {path.stem for path in (out / "a").iterdir()}
    assert names == {
        "image", "attention_mean", "attention_head0", "attention_head1", "cam", "similarity_stage2",
        *(f"components_stage{i}" for i in range(4)),
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == {
        "a", "b", "a.html", "b.html", "sheet.png", "receptive_field.json",
        *(f"receptive_field_stage{i}.png" for i in range(4)),
    }  # fmt: skip
    for path in out.rglob("*.png"):
        assert Image.open(path).size > (100, 100)
    radii = json.loads((out / "receptive_field.json").read_text())
    assert 0 < radii["stages.0"]["radius_50"] < radii["stages.3"]["radius_95"] < 64
    assert "1 of 3 images could not be read" in re.sub(r"\s+", " ", "".join(capsys.readouterr()))

    data = data_of(out / "a.html")
    names = [view["name"] for view in data["views"]]
    assert names[0] == "stages.2.blocks.1.attn: mean of heads" and names[-1] == "similarity, stages.3"
    first = data["views"][0]
    assert first["queries"] == first["cells"] == [4, 4] and data["width"] == 64
    heats = np.frombuffer(base64.b64decode(first["heats"]), np.uint8)
    assert heats.size == 4**4 and heats.reshape(16, 16).max(1).tolist() == [255] * 16


def test_what_a_model_has_not_is_said(tmp_path, photos, capsys):
    out = tmp_path / "out"
    words = ["--show", "attention", "cam", "page"]
    assert main(["van_b0", str(photos / "a.png"), *SMALL, *VAN, "-o", str(out), *words]) == 0
    said = re.sub(r"\s+", " ", "".join(capsys.readouterr()))
    assert "no attention is drawn: VAN has no layer that weighs positions against each other." in said
    assert {path.stem for path in (out / "a").iterdir()} == {"image", "cam"}
    assert data_of(out / "a.html")["views"][0]["name"] == "similarity, stages.0"


def test_tokens_that_a_model_keeps(tmp_path, photos):
    out = tmp_path / "out"
    arguments = ["--model-kwargs", "dim=32", "depth=4", "num_heads=2", "--show", "selection"]
    assert main(["sparsifiner_s", str(photos / "a.png"), *SMALL, *arguments, "-o", str(out)]) == 0
    assert {path.stem for path in (out / "a").iterdir()} == {"image", *(f"pairs_block{i}" for i in range(4))}


@pytest.mark.parametrize(
    "words, message",
    [
        (["--at", "70,3"], "--at 70,3 is outside of the image of 64 x 64 pixels"),
        (["--at", "middle"], "--at must be two numbers of pixels"),
        (["--stage", "4"], "--stage must be between -4 and 3"),
        (["--stage", "0"], "Stage 0 has no layer that weighs positions: those that have are 2, 3"),
        (["--head", "99"], "--head must be between 0 and"),
        (["--block", "7"], "--block must be between 0 and"),
        (["--target", "cat"], "--target cat is no class of the model"),
    ],
)
def test_mistakes_end_in_a_sentence(tmp_path, photos, capsys, words, message):
    name, kwargs = ("overlock_xt", []) if "0" in words else ("nat_t", NAT)
    show = ["--show", "attention"]
    assert main([name, str(photos / "a.png"), *SMALL, *kwargs, "-o", str(tmp_path / "out"), *words, *show]) != 0
    assert message in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


CLICK = """<script>
addEventListener("load", () => setTimeout(() => {
  const canvas = document.getElementById("canvas"), context = canvas.getContext("2d");
  const look = () => [0, 1].flatMap(y => [0, 1].map(x => context.getImageData(8 + 16 * x, 2 + 16 * y, 1, 1).data[0]));
  const told = [look(), document.getElementById("status").textContent];
  document.getElementById("opacity").value = 100;
  for (const [x, y] of [[0.1, 0.1], [0.9, 0.1]]) {
    const box = canvas.getBoundingClientRect();
    const [clientX, clientY] = [box.left + x * box.width, box.top + y * box.height];
    canvas.dispatchEvent(new MouseEvent("click", {clientX, clientY, bubbles: true}));
    told.push(look(), document.getElementById("status").textContent);
  }
  canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown"}));
  told.push(document.getElementById("status").textContent);
  document.body.innerHTML = "<pre>" + JSON.stringify(told) + "</pre>";
}, 500));
</script></body>"""


@pytest.mark.extra
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_click_moves_the_query_in_a_browser(tmp_path):
    heats = torch.eye(4).view(4, 2, 2)  # each query looks at itself
    page = write_page(tmp_path / "page.html", "</script> & more", np.zeros((32, 32, 3)), [View("own", (2, 2), heats)])
    text = page.read_text()
    assert "<title>&lt;/script&gt; &amp; more" in text
    page.write_text(text.replace("</body>", CLICK))
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom",
         page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    told = json.loads(re.search(r"<pre>(.*)</pre>", done.stdout).group(1))
    assert told[1] == "Query in row 1 of 2, column 1 of 2"  # the middle, before any click
    assert told[3] == "Query in row 0 of 2, column 0 of 2" and np.argmax(told[2]) == 0
    assert told[5] == "Query in row 0 of 2, column 1 of 2" and np.argmax(told[4]) == 1
    assert told[6] == "Query in row 1 of 2, column 1 of 2"
