"""Builds the site: writes its pages into `build/site-source`, and has MkDocs make `build/site` of them."""

from __future__ import annotations

import argparse
import importlib.util
import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from backbones.site import pages
from backbones.site.data import ROOT, measure, papers
from backbones.utils.files import write_text

ASSETS = Path(__file__).parent / "assets"
BUILD = ROOT / "build"
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```$|^    .*?$|`[^`\n]*`(?!\]))", re.M | re.S)
#: Documents of the repository, and what they are called in the site.
DOCUMENTS = {
    "docs/models.md": "models.md",
    "docs/mixers.md": "mixers.md",
    "docs/options.md": "options.md",
    "docs/architecture.md": "architecture.md",
    "BENCHMARKS.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "checkpoints/README.md": "weights.md",
    "configs/detection/README.md": "detection.md",
    "configs/segmentation/README.md": "segmentation.md",
}


def relink(text: str, here: str, known: Mapping[str, str]) -> str:
    """A document of the repository with its links as they are in the site.

    Args:
        text: Markdown.
        here: The document's path in the repository.
        known: Paths in the repository of all that the site has, with their paths there. Links to other files of the
            repository become plain text, as the site has no address of them.

    Raises:
        ValueError: A link leads to no file of the repository.
    """

    def link(match: re.Match) -> str:
        image, label, target, anchor = match.groups()
        if not target or re.match(r"\w+:", target):
            return match[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        if not (ROOT / place).exists():
            raise ValueError(f"{here} links to {target}, which is not there.")
        if place not in known:
            return label
        there = posixpath.relpath(known[place], posixpath.dirname(known[here]) or ".")
        return f"{image}[{label}]({there}{anchor or ''})"

    return "".join(part if i % 2 else _LINK.sub(link, part) for i, part in enumerate(_CODE.split(text)))


def write_source(folder: Path) -> list[object]:
    """Writes all pages into the new folder `folder`, and gives the site's navigation."""
    found = papers()
    known = dict(DOCUMENTS)
    known |= {path.relative_to(ROOT).as_posix(): f"guides/{path.name}" for path in pages.guides()}
    known |= {f"docs/images/{path.name}": f"images/{path.name}" for path in (ROOT / "docs" / "images").iterdir()}
    for here, there in known.items():
        if there.endswith(".md"):
            write_text(folder / there, relink((ROOT / here).read_text(encoding="utf-8"), here, known))
        else:
            (folder / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / here, folder / there)
    shutil.copytree(ASSETS, folder / "assets")
    explorer, data = pages.explorer(found)
    write_text(folder / "explorer.md", explorer)
    write_text(folder / "assets" / "explorer-data.js", data)
    write_text(folder / "index.md", pages.index(found))
    write_text(folder / "families" / "index.md", pages.families_index(found))
    for paper in found:
        write_text(folder / "families" / f"{paper.slug}.md", pages.family(paper))
    api = pages.api()
    for name, text in api.items():
        write_text(folder / "api" / name, text)
    return [
        "index.md",
        {"Explorer": "explorer.md"},
        {"Guides": [f"guides/{path.name}" for path in pages.guides()]},
        {"Families": ["families/index.md", *({paper.short: f"families/{paper.slug}.md"} for paper in found)]},
        {
            "Reference": [
                {"Models": "models.md"},
                {"Weights": "weights.md"},
                {"Detection": "detection.md"},
                {"Segmentation": "segmentation.md"},
                {"Token mixers": "mixers.md"},
                {"Options": "options.md"},
                {"Benchmarks": "benchmarks.md"},
            ]
        },
        {"API": [f"api/{name}" for name in api]},
        {
            "Project": [
                {"Architecture": "architecture.md"},
                {"Contributing": "contributing.md"},
                {"Changelog": "changelog.md"},
            ]
        },
    ]


def build() -> Path:
    """Builds the site, strictly: a link to a page or heading that is not there ends it. Gives its folder."""
    source, site = BUILD / "site-source", BUILD / "site"
    shutil.rmtree(source, ignore_errors=True)
    config = {"INHERIT": "../mkdocs.yml", "docs_dir": source.name, "site_dir": site.name, "nav": write_source(source)}
    write_text(BUILD / "mkdocs.yml", yaml.safe_dump(config, sort_keys=False))
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--strict",
        "--config-file",
        str(BUILD / "mkdocs.yml"),
    ]
    subprocess.run(command, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return site


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `tools/docs.py`."""
    parser = argparse.ArgumentParser(prog="docs", description="The site of the project, and what it is made of.")
    parser.add_argument(
        "command",
        choices=("build", "source", "measure"),
        help="build/site; only its pages as Markdown, in build/site-source; or docs/growth.csv, a minute",
    )
    command = parser.parse_args(argv).command
    if command == "measure":
        measure()
    elif command == "source":
        shutil.rmtree(BUILD / "site-source", ignore_errors=True)
        write_source(BUILD / "site-source")
    elif importlib.util.find_spec("mkdocs") is None:
        print("MkDocs is not installed: run make docs, or pip install -e '.[docs]'.", file=sys.stderr)
        return 2
    else:
        try:
            print(build() / "index.html")
        except subprocess.CalledProcessError:
            return 1  # MkDocs has said why
    return 0
