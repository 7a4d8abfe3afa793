"""The table of all published weights, for people: on the terminal and as `checkpoints/README.md`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import timm

from backbones.checkpoints.convert import Entry, entry
from backbones.checkpoints.store import Store
from backbones.checkpoints.weights import dropped
from backbones.models import list_known
from backbones.models.registry import Family, Weights

_HEADER = """# Pretrained weights

Generated from the models' tags by `python tools/checkpoint.py readme`; do not edit.

This folder is the local store of a clone. `timm.create_model("<model>.<tag>", pretrained=True)` looks here first (or in
`$BACKBONES_CHECKPOINTS`; an installed package uses `~/.cache/backbones/checkpoints`), downloads what is missing,
converts it to `<model>.<tag>.safetensors`, and notes in `<model>.<tag>.json` where it came from and the sha256 of the
published and of the stored file. Later downloads must have the same sha256. Without a tag the first one of a model
counts.

- **file**: downloaded from the authors' address.
- **hub**: loaded by timm from the Hugging Face Hub; `get` copies it into the store.
- **page**: a page that only a browser can download from: save the file here as `<model>.<tag>.pth` and go on as usual.

Any published file that is saved here under that name, or under the name its authors gave it, is taken the same way.

| command of `python tools/checkpoint.py` | what it does |
| --- | --- |
| `list` | this table, and what is in the store |
| `get NAME ...` | fetch weights into the store; wildcards are allowed |
| `convert FILE --model NAME` | convert a file into the store, after a forward pass with it |
| `verify` | check the sha256 of everything in the store and load it |
| `identify FILE` | which model is this? |
| `diff A B` | compare two files: names, shapes, numbers |
| `export DIR --model NAME` | a folder for `timm.create_model("local-dir:DIR")` and the Hugging Face Hub |
"""
_COLUMNS = ("weights", "parameters", "image", "top-1", "licence", "from", "notes")


@dataclass(frozen=True)
class Row:
    """A set of weights in words.

    Attributes:
        parameters: Millions.
        image: Side in pixels.
        top1: Published ImageNet-1K accuracy, percent.
        licence: Of the weights.
        kind, address: What they come from, and where that is.
    """

    entry: Entry
    parameters: float
    image: int
    top1: str
    licence: str
    kind: str
    address: str

    def cells(self) -> tuple[str, ...]:
        """One string a column, but for source and notes."""
        return (self.entry.name, f"{self.parameters:.1f} M", str(self.image), self.top1, self.licence)


def _origin(weights: Weights) -> tuple[str, str]:
    if weights.hf_hub_id:
        return "hub", f"https://huggingface.co/{weights.hf_hub_id}"
    if weights.url:
        return "file", weights.url
    return ("page", weights.page) if weights.page else ("not published", "")


def rows(names: list[str] | None = None) -> Iterator[Row]:
    """A row for every tag of the models `names`, of all if None."""
    counts: dict[str, float] = {}
    for model in list_known() if names is None else names:
        for tag in entry(model).family.variants[model].weights:
            one = entry(f"{model}.{tag}")
            args = repr((model, sorted(one.weights.args.items()), one.weights.num_classes))
            if args not in counts:
                parameters = timm.create_model(one.name, device="meta").parameters()
                counts[args] = sum(p.numel() for p in parameters) / 1e6
            weights = one.weights
            kind, address = _origin(weights)
            if address.endswith("/timm/"):
                address += one.name
            top1 = "" if weights.top1 is None else f"{weights.top1:g}"
            licence = one.family.license or "not stated"
            yield Row(one, counts[args], weights.input_size, top1, licence, kind, address)


def in_store(row: Row, store: Store) -> str:
    """What the store has of a set of weights."""
    if store.path(row.entry.name).is_file() and store.sidecar(row.entry.name).is_file():
        return "yes"
    given = dropped(store, row.entry)
    return f"{given.name}, not converted" if given else "no"


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |\n"


def readme() -> str:
    """`checkpoints/README.md`."""
    text = _HEADER
    family: Family | None = None
    table = sorted(rows(), key=lambda row: (row.entry.family.paper_name, row.entry.family.paper_ids))
    for row in table:
        if family is None or row.entry.family.paper_ids != family.paper_ids:
            family = row.entry.family
            paper = family.paper_ids.removeprefix("arXiv:")
            text += f"\n## {family.paper_name}\n\n[arXiv {paper}](https://arxiv.org/abs/{paper}), "
            text += f"[code]({family.origin_url}).\n\n" + _line(_COLUMNS) + _line(("---",) * len(_COLUMNS))
        source = f"[{row.kind}]({row.address})" if row.address else row.kind
        text += _line((*row.cells(), source, "; ".join(row.entry.weights.notes)))
    return text
