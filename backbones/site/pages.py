"""The pages that are written from the registry, as Markdown: the front page, the explorer, a page a paper, the API."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from backbones.site.data import PERMISSIVE, ROOT, Model, Paper, explorer_rows, kind_of, speeds
from backbones.train.options.recipe import list_recipes

#: What people look for, as the explorer's state in its address: see assets/explorer.js.
QUESTIONS = {
    "<b>The fastest above 83 % top-1 with a permissive licence</b>": (
        "top1=83&licence=permissive&published=yes&sort=-speed&x=speed"
    ),
    "The fewest parameters above 84 % top-1": "top1=84&published=yes&sort=params&x=params",
    "For large images: linear cost": "linear=yes&published=yes&sort=-top1&x=gmacs",
    "The best backbones of detectors": "coco=yes&sort=-box&x=params",
    "The best backbones of segmentors": "ade=yes&sort=-miou&x=params",
}
_API = {  # title of a page: packages and modules of it
    "Layers: attention": ("backbones/layers/attention",),
    "Layers: convolution": ("backbones/layers/conv",),
    "Layers: shared parts": ("backbones/layers",),
    "Operators": ("backbones/ops",),
    "Models": ("backbones/models",),
    "Features and detectors": ("backbones/features.py", "backbones/dense/backbone.py", "backbones/dense/options.py"),
    "Checkpoints": ("backbones/checkpoints",),
    "Export": ("backbones/export",),
}


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; None is an empty cell."""
    lines = (columns, ("---",) * len(columns), *rows)
    return "\n".join(f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} |" for cells in lines)


def finetune_command(name: str) -> str:
    """The command that trains published weights on a folder of one's own."""
    words = ["python", "tools/classification/train.py", "--model", name, "--pretrained", "--data", "photos/"]
    words += ["--epochs", "20", "--batch-size", "32", "--lr", "1e-4"]
    return shlex.join(words)


def recipe_command(recipe: str, model: str) -> str:
    """The command that trains a model by its authors' recipe."""
    return (
        "torchrun --nproc_per_node 8 tools/classification/train.py "
        f"--recipe {recipe} --model {model} --data /data/imagenet"
    )


def explorer(found: list[Paper]) -> tuple[str, str]:
    """The explorer's page, and the script with its data."""
    words = speeds().words
    page = f"""---
hide: [navigation, toc]
title: Explorer
---
# All weights

All published weights. Parameters and GMACs (multiply-adds) are measured by this code, top-1 is the papers', box AP and
mIoU the best published of a detector on COCO and a segmentor on ADE20K. Images/s: {words}. An empty cell is
not measured, or not at the image size of these weights. "Linear": multiply-adds grow as the number of pixels. Click a
column to sort by it, a point or a name for its page; tick rows to compare them.

<noscript>The explorer needs JavaScript; <a href="models.html">the table of models</a> does not.</noscript>
<div id="explorer"></div>
<script src="assets/explorer-data.js"></script>
<script src="assets/explorer.js"></script>
"""
    rows = json.dumps(explorer_rows(found), separators=(",", ":"), ensure_ascii=True)
    return page, f"window.EXPLORER_ROWS = {rows};\n"


def index(found: list[Paper]) -> str:
    """The front page."""
    models = sum(len(paper.models) for paper in found)
    weights = sum(len(model.weights) for paper in found for model in paper.models)
    return f"""---
hide: [toc]
---
# backbones

Hierarchical vision backbones in PyTorch: every published model of a family, rebuilt from one set of shared attention
and convolution blocks, proven numerically equal to its authors' code, and a first-class
[timm](https://github.com/huggingface/pytorch-image-models) model. {models} models of {len(found)} papers, {weights}
sets of weights.

## Find a model

{chr(10).join(f'- <a href="explorer.html#{state}">{words}</a>' for words, state in QUESTIONS.items())}
- [All models and weights](explorer.md)

The page of a model has its weights and the command that trains it on your folder of photographs.

## Use it

```sh
pip install -e .        # Python 3.10 or newer, torch 2.8 or newer
```

```python
import timm, torch
import backbones  # registers the models

model = timm.create_model("dinat_s_t", pretrained=True, num_classes=10)
features = timm.create_model("overlock_xt", features_only=True)  # strides 4, 8, 16, 32; any size
maps = features(torch.randn(1, 3, 300, 420))
```

## Guides

{guide_list()}
"""


def guides() -> list[Path]:
    """The guides, in the order of their file names' numbers."""
    return sorted((ROOT / "docs" / "guides").glob("*.md"))


def title_of(text: str) -> str:
    """The first heading of a page."""
    return re.search(r"^# (.+)$", text, re.M)[1]


def guide_list() -> str:
    """A line a guide."""
    return "\n".join(f"- [{title_of(path.read_text(encoding='utf-8'))}](guides/{path.name})" for path in guides())


def families_index(found: list[Paper]) -> str:
    """The list of papers."""
    rows = []
    for paper in found:
        top1 = [row.entry.weights.top1 for model in paper.models for row in model.weights if row.entry.weights.top1]
        params = [model.params for model in paper.models]
        kinds = dict.fromkeys(kind for model in paper.models for kind in model.attention)
        rows.append(
            (
                f"[{paper.short}]({paper.slug}.md)",
                len(paper.models),
                ", ".join(kinds),
                " to ".join(dict.fromkeys((f"{min(params):g}", f"{max(params):g}"))),
                max(top1, default=None),
            )
        )
    columns = ("paper", "models", "attention", "params, M", "best top-1, %")
    return f"# Families\n\nA page a paper: models, weights, recipes, configs.\n\n{table(columns, rows)}\n"


def family(paper: Paper) -> str:
    """The page of a paper."""
    link = f"https://arxiv.org/abs/{paper.arxiv}"
    code = " and ".join(dict.fromkeys(f"[code of the authors]({one.origin_url})" for one in paper.families))
    parts = [f"---\ntitle: {json.dumps(paper.short)}\n---\n# {paper.title}\n\n[arXiv {paper.arxiv}]({link}), {code}."]
    parts += [_adds(paper), _models(paper), *(_weights(model) for model in paper.models)]
    parts += [part for part in (_recipes(paper), _configs(paper)) if part]
    parts.append(
        f"## How to cite\n\n*{paper.title}*, [arXiv:{paper.arxiv}]({link}); "
        f"[its BibTeX entry](https://arxiv.org/bibtex/{paper.arxiv}).\n"
    )
    return "\n\n".join(parts)


def _adds(paper: Paper) -> str:
    """What the paper adds, as the docstrings say: of its models, or in hosts of its attention; and what these use."""
    modules = dict.fromkeys(one.model.__module__ for one in paper.families)
    texts = {name: inspect.getdoc(sys.modules[name]) or "" for name in modules if name.startswith("backbones.")}
    layers = dict.fromkeys(layer for model in paper.models for layer in model.layers)
    # A module of its own is a host, of any paper's mixers, unless it begins with this paper; a folder is a family.
    hosts = [name for name in texts if name.count(".") == 2 and paper.arxiv not in texts[name].partition("\n\n")[0]]
    added = [texts[name] for name in texts if name not in hosts]
    if not added:
        docstrings = [inspect.getdoc(layer) or "" for layer in layers]
        added = [text.partition("\n\nArgs:")[0] for text in docstrings if paper.arxiv in text]
    parts = ["## What it adds", *added]
    if hosts:
        parts.append("Its models have the architecture of\n\n" + "\n".join(_item(name, texts[name]) for name in hosts))
    if layers:
        lines = []
        for layer in layers:
            name = f"{layer.__module__}.{layer.__qualname__}"
            lines.append(_item(name, inspect.getdoc(layer) or "", f"**{kind_of(layer)}**, "))
        parts.append("Its attention, or what stands in its place:\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _item(name: str, docstring: str, before: str = "") -> str:
    """A line of a list: a link to the API, and the docstring's first paragraph."""
    link = f"[`{name}`][{name}]" if name.startswith("backbones.") else f"`{name}`"
    summary = docstring.partition("\n\n")[0].replace("\n", " ")
    return f"- {before}{link}: {summary}"


def _models(paper: Paper) -> str:
    growth = {True: "linear", False: "more than linear", None: ""}
    rows = [
        (
            f"[`{model.name}`](#{model.name})",
            f"{model.params:g}",
            f"{model.gmacs:g} ({model.size})",
            growth[model.linear],
            model.speed and f"{model.speed:g}",
            ", ".join(model.attention),
            model.parity,
        )
        for model in paper.models
    ]
    columns = ("model", "params, M", "GMACs (size)", "growth with pixels", "images/s", "attention", "parity error")
    return (
        f"## Models\n\n{table(columns, rows)}\n\nImages/s: {speeds().words}. The parity error is the largest "
        "difference of logits from the authors' implementation, in units of their standard deviation."
    )


def _weights(model: Model) -> str:
    rows = []
    for row in model.weights:
        licence = f"**{row.licence}**" if row.licence in PERMISSIVE else row.licence
        source = f"[{row.kind}]({row.address})" if row.address else row.kind
        notes = "; ".join(row.entry.weights.notes)
        rows.append((f"`{row.entry.name}`", f"{row.parameters:.1f}", row.image, row.top1, licence, source, notes))
    columns = ("weights", "params, M", "image", "top-1, %", "licence", "from", "notes")
    parts = [f"### {model.name} {{ #{model.name} }}", table(columns, rows)]
    had = [row for row in model.weights if row.kind != "not published"]
    if had:
        name = had[0].entry.name
        parts.append(
            f"Train it on your own folder ([guide](../guides/2-fine-tune.md)):\n\n```sh\n{finetune_command(name)}\n```"
        )
        if had[0].kind == "page":
            parts.append(f"The file is on a page for browsers: save it as `checkpoints/{name}.pth` first.")
    commands = [recipe_command(*recipe) for recipe in model.recipes]
    if commands:
        parts.append(
            "By the authors' recipe, from scratch or as the recipe says:\n\n```sh\n" + "\n".join(commands) + "\n```"
        )
    return "\n\n".join(parts)


def _recipes(paper: Paper) -> str:
    names = sorted({recipe.partition(":")[0] for model in paper.models for recipe, _ in model.recipes})
    blocks = []
    for name in names:
        text = list_recipes()[name].read_text(encoding="utf-8").rstrip()
        body = "\n".join(f"    {line}".rstrip() for line in ["```yaml", *text.splitlines(), "```"])
        blocks.append(f'??? note "configs/imagenet/{name}.yaml"\n\n{body}')
    return "## Recipes\n\n" + "\n\n".join(blocks) if blocks else ""


def _configs(paper: Paper) -> str:
    parts = []
    found = [result for model in paper.models for result in model.results]
    for task in ("detection", "segmentation"):
        rows = [result for result in found if result.task == task]
        if rows:
            scores = list(dict.fromkeys(column for result in rows for column in result.scores))
            cells = [
                (
                    f"`{result.path}`",
                    *(result.scores.get(column) for column in scores),
                    f"[authors']({result.weights})" if result.weights else None,
                )
                for result in rows
            ]
            parts.append(f"### {task.capitalize()}\n\n{table(('config', *scores, 'weights'), cells)}")
    if not parts:
        return ""
    text = "\n\n".join(["## Detectors and segmentors", "Results are as published.", *parts])
    return (
        f"{text}\n\n```sh\ntorchrun --nproc_per_node 8 tools/dense/train.py {found[0].path}\n"
        f"python tools/dense/test.py {found[0].path} CHECKPOINT\n```"
    )


def api() -> dict[str, str]:
    """The API pages, by file name: what the docstrings say."""
    pages, seen = {}, set()
    for title, places in _API.items():
        modules = []
        for place in places:
            path = ROOT / place
            paths = [path] if path.is_file() else sorted(path.rglob("*.py"))
            modules += [path for path in paths if _documented(path) and path not in seen]
        seen.update(modules)
        names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules]
        slug = re.sub(r"\W+", "-", title.lower())
        pages[f"{slug}.md"] = f"# {title}\n\n" + "\n\n".join(f"::: {name}" for name in names) + "\n"
    return pages


def _documented(path: Path) -> bool:
    """Whether a module has a place among the API pages: keys of authors' files and command lines have none."""
    private = path.name.startswith("_") or path.name == "cli.py"
    return not private and not (path.name == "weights.py" and "models" in path.parts)
