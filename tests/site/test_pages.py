"""The pages as Markdown: their commands can be run, their links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from urllib.parse import parse_qs

import pytest

from backbones.site import build, pages
from backbones.site.data import ROOT, papers, recipes
from backbones.train.options.recipe import parse_command_line


@pytest.fixture(scope="module")
def found():
    return papers("van_b[04]")


def test_family_page(found):
    text = pages.family(found[0])
    assert text.startswith('---\ntitle: "Visual Attention Network"\n---\n# Visual Attention Network\n')
    assert "21 x 21 positions" in text  # the module's docstring
    assert "### van_b0 { #van_b0 }" in text and "### van_b4 { #van_b4 }" in text
    assert pages.finetune_command("van_b0.in1k") in text
    assert "--recipe van --model van_b4" in text
    assert "save it as `checkpoints/van_b4.in1k.pth`" in text  # its page cannot be downloaded from
    assert '??? note "configs/imagenet/van.yaml"' in text
    assert "configs/segmentation/van/" in text
    assert "https://arxiv.org/bibtex/2202.09741" in text


def test_family_page_of_a_mixer_in_hosts():
    (paper,) = papers("agent_pvt_t")
    text = pages.family(paper).partition("## Models")[0]
    added, _, hosts = text.partition("Its models have the architecture of")
    assert "Han et al." in added and "Wang et al." not in added
    assert "[`backbones.models.pvt`][backbones.models.pvt]" in hosts


def test_family_page_names_documented_layers(found):
    named = re.findall(r"\]\[(backbones\.[\w.]+)\]", pages.family(found[0]))
    assert named
    documented = set(re.findall(r"^::: (\S+)$", "\n".join(pages.api().values()), re.M))
    assert {name.rpartition(".")[0] for name in named} | {"backbones.models.pvt"} <= documented


def test_commands_of_the_pages():
    commands = [pages.finetune_command("van_b0.in1k")]
    commands += [pages.recipe_command(*recipe) for found in recipes().values() for recipe in found]
    for command in commands:
        words = shlex.split(command)
        start = words.index("tools/classification/train.py")
        _, values = parse_command_line(words[start + 1 :])
        assert values["model"] == words[words.index("--model") + 1]


def test_explorer(found):
    page, script = pages.explorer(found)
    rows = json.loads(script.removeprefix("window.EXPLORER_ROWS = ").removesuffix(";\n"))
    assert [row["name"] for row in rows] == ["van_b0.in1k", "van_b4.in1k", "van_b4.in22k"]
    for name in re.findall(r'src="assets/([\w.-]+)"', page):
        assert name == "explorer-data.js" or (build.ASSETS / name).is_file()


def test_questions_are_states_of_the_explorer(found):
    script = (build.ASSETS / "explorer.js").read_text(encoding="utf-8")
    keys = set(re.findall(r"(\w+):", re.search(r"const DEFAULTS = \{(.*?)\}", script, re.S)[1]))
    columns = set(re.findall(r'key: "(\w+)"', script))
    for state in pages.QUESTIONS.values():
        values = parse_qs(state, strict_parsing=True)
        assert set(values) <= keys
        assert values["sort"][0].removeprefix("-") in columns
        assert f'href="explorer.html#{state}"' in pages.index(found)


def test_guides_have_titles_in_order():
    names = [path.name for path in pages.guides()]
    assert [name[0] for name in names] == [str(number) for number in range(1, len(names) + 1)]
    assert "[Fine-tune on your own folder](guides/2-fine-tune.md)" in pages.guide_list()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[weights](../../checkpoints/README.md#van)", "[weights](../weights.md#van)"),
        ("[`a` list](../models.md), [b](https://x.y/z)", "[`a` list](../models.md), [b](https://x.y/z)"),
        ("[code](../../backbones/models)", "code"),
        ("![curves](../images/curves.png)", "![curves](../images/curves.png)"),
        ("`[a](b.md)`", "`[a](b.md)`"),
        ("```sh\n[a](b.md)\n```", "```sh\n[a](b.md)\n```"),
        ("[here](#there)", "[here](#there)"),
    ],
)
def test_relink(text, expected):
    known = {**build.DOCUMENTS, "docs/guides/a.md": "guides/a.md", "docs/images/curves.png": "images/curves.png"}
    assert build.relink(text, "docs/guides/a.md", known) == expected


def test_links_of_documents_lead_to_files():
    known = {path: path for path in [*build.DOCUMENTS, *(path.relative_to(ROOT).as_posix() for path in pages.guides())]}
    for here in known:
        assert build.relink((ROOT / here).read_text(encoding="utf-8"), here, known)
    with pytest.raises(ValueError, match=r"docs/models.md links to \.\./none.md"):
        build.relink("[x](../none.md)", "docs/models.md", known)


def test_python_of_the_guide_of_layers():
    """As it is written there, one block after the other."""
    text = (ROOT / "docs" / "guides" / "6-layer.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(block, names)
    assert names["y"].shape == (1, 56, 64, 96)
    assert [m.shape[-2:] for m in names["maps"]] == [(75, 105), (38, 53), (19, 27), (10, 14)]
