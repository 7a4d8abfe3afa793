"""Folders that timm and the Hugging Face Hub take: configuration, weights and model card."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import timm
import yaml
from timm.models import save_for_hf
from torch import nn

from backbones.checkpoints.convert import Entry, classes_of, convert, entry
from backbones.checkpoints.errors import WeightsError
from backbones.checkpoints.reading import read_checkpoint
from backbones.checkpoints.store import Store, save_tensors
from backbones.checkpoints.weights import load

_CARD = """---
{head}---
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
## Use with timm

```python
import backbones  # registers the model with timm
import timm

model = timm.create_model("local-dir:PATH", pretrained=True).eval()  # or "hf-hub:OWNER/NAME"
data = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**data, is_training=False)
features = timm.create_model("local-dir:PATH", pretrained=True, features_only=True)
```

## Use with transformers

```python
import backbones  # registers the model with timm
from transformers import TimmBackbone, TimmWrapperForImageClassification, TimmWrapperImageProcessor

model = TimmWrapperForImageClassification.from_pretrained("PATH").eval()  # or "OWNER/NAME"
processor = TimmWrapperImageProcessor.from_pretrained("PATH")
features = TimmBackbone.from_pretrained("local-dir:PATH", out_indices=(0, 1, 2, 3))
```

## Cite

{paper_name}, [arXiv:{paper}](https://arxiv.org/abs/{paper}), [BibTeX](https://arxiv.org/bibtex/{paper}).
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
        _state_classes_once(aside / "config.json")
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


def _state_classes_once(path: Path) -> None:
    """Leave the number of classes out of timm's `model_args`: transformers passes it beside them, and fails on two."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.get("model_args", {}).pop("num_classes", None)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def _published(row: Entry) -> str:
    address = row.weights.url or row.weights.page or f"https://huggingface.co/{row.weights.hf_hub_id}"
    return f"`{row.name}`, converted from {address}"


def _card(row: Entry, model: nn.Module, source: str) -> str:
    family, weights = row.family, row.weights
    own = not source.startswith("`")
    name = row.model if own else row.name
    licence = None if own else family.license
    top1 = None if own else weights.top1
    return _CARD.format(
        head=yaml.safe_dump(_head(name, licence, [] if own else _datasets(row), top1), sort_keys=False),
        name=name,
        model=row.model,
        license_words="yours to state" if own else licence or "not stated",
        paper_name=family.paper_name,
        paper=family.paper_ids.removeprefix("arXiv:"),
        origin_url=family.origin_url,
        source=source,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        classes=model.num_classes,
        side=weights.input_size,
        top1="" if top1 is None else f"| ImageNet-1K top-1, as published | {top1:g} % |\n",
    )


def _datasets(row: Entry) -> list[str]:
    """What the weights were trained on, as their tag says: `in21k_ft_in1k` is ImageNet-21K, then ImageNet-1K."""
    return [f"imagenet-{size}" for size in re.findall(r"in(\d+k)", row.tag)]


def _head(name: str, licence: str | None, datasets: list[str], top1: float | None) -> dict[str, Any]:
    """What the Hub reads of a model card and shows beside it."""
    head: dict[str, Any] = {
        "tags": ["image-classification", "timm", "transformers"],
        "pipeline_tag": "image-classification",
        "library_name": "timm",
        "license": licence or "unknown",
    }
    if datasets:
        head["datasets"] = datasets
    if top1 is not None:
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": "ImageNet-1K", "type": "imagenet-1k"},
            "metrics": [{"type": "accuracy", "name": "top-1, as published", "value": top1}],
        }
        head["model-index"] = [{"name": name, "results": [result]}]
    return head
