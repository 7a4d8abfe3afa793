"""Folders that timm and the Hugging Face Hub take: configuration, weights and model card."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import timm
from timm.models import save_for_hf
from torch import nn

from backbones.checkpoints.convert import Entry, classes_of, convert, entry
from backbones.checkpoints.errors import WeightsError
from backbones.checkpoints.reading import read_checkpoint
from backbones.checkpoints.store import Store, save_tensors
from backbones.checkpoints.weights import load

_CARD = """---
tags:
- image-classification
- timm
pipeline_tag: image-classification
library_name: timm
license: {license}
---
# {name}

{model} of [{paper_name}](https://arxiv.org/abs/{paper}); code of the authors: {origin_url}.

| | |
| --- | --- |
| weights | {source} |
| licence of the weights | {license_words} |
| parameters | {parameters:.1f} M |
| classes | {classes} |
| image | {side} x {side} |
{top1}
```python
import backbones  # registers the model with timm
import timm

model = timm.create_model("local-dir:PATH", pretrained=True).eval()  # or "hf-hub:OWNER/NAME"
data = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**data, is_training=False)
```
"""


def export(name: str, folder: str | Path, checkpoint: str | Path | None = None, store: Store | None = None) -> Path:
    """Write `config.json`, `model.safetensors` and `README.md` of a model.

    Args:
        name: Model with or without tag.
        folder: New folder, or an empty one.
        checkpoint: Weights of your own (any number of classes) instead of the published ones.
        store: Where published weights are looked for first.

    Raises:
        WeightsError: The folder is taken or cannot be written, or the weights cannot be had or do not fit.
    """
    row, folder = entry(name), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeightsError(f"{folder} exists and is not an empty folder: name another one.")
    if checkpoint is None:
        model, source = load(row.name, store), _published(row)
    else:
        state = convert(read_checkpoint(checkpoint), row.name, str(checkpoint), any_head=True)
        overlay = {"state_dict": state, "num_classes": classes_of(state, row.family.classifier)}
        model = timm.create_model(row.name, pretrained=True, pretrained_cfg_overlay=overlay)
        source = "a checkpoint of your own"
    aside = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        save_for_hf(model, str(aside), safe_serialization=True)
        save_tensors(model.state_dict(), aside / "model.safetensors")  # again, with the metadata that loaders ask for
        (aside / "README.md").write_text(_card(row, model, source), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        os.replace(aside, folder)
    except OSError as error:
        raise WeightsError(
            f"Cannot write {folder} ({error.strerror or error}): free some space or choose another."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _published(row: Entry) -> str:
    address = row.weights.url or row.weights.page or f"https://huggingface.co/{row.weights.hf_hub_id}"
    return f"`{row.name}`, converted from {address}"


def _card(row: Entry, model: nn.Module, source: str) -> str:
    family, weights = row.family, row.weights
    own = not source.startswith("`")
    top1 = "" if own or weights.top1 is None else f"| ImageNet-1K top-1, as published | {weights.top1:g} % |\n"
    return _CARD.format(
        name=row.model if own else row.name,
        model=row.model,
        license="unknown" if own or not family.license else family.license,
        license_words="yours to state" if own else family.license or "not stated",
        paper_name=family.paper_name,
        paper=family.paper_ids.removeprefix("arXiv:"),
        origin_url=family.origin_url,
        source=source,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        classes=model.num_classes,
        side=weights.input_size,
        top1=top1,
    )
