"""The tags: complete, unambiguous, and the table made of them in step."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import timm
import torch

import backbones
from backbones.checkpoints.convert import entry, fitted
from backbones.checkpoints.table import readme, rows
from backbones.checkpoints.weights import file_names
from backbones.models import family_of
from tests.checkpoints.zoo import CLASSIFIERS
from tests.parity.cases import FIXTURES
from tests.parity.parity import load

ROOT = Path(__file__).parents[2]
TAGS = [f"{model}.{tag}" for model in backbones.list_models() for tag in family_of(model).variants[model].weights]


def test_readme_is_in_step():
    """`python tools/checkpoint.py readme` writes it."""
    assert (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8") == readme()


def test_parameters_are_those_of_the_classes():
    """As the authors' models have them, 1,000 classes or those of ImageNet-22K and -21K."""
    counted = {row.entry.name: row.parameters for row in rows(["smt_l", "maxvit_b"])}
    assert counted["smt_l.in22k_ft_in1k"] == 80.620264 and counted["smt_l.in22k"] == 96.646993
    assert counted["maxvit_b.in1k"] == 119.467708 and counted["maxvit_b.in21k"] == 135.495975


@pytest.mark.parametrize("name", TAGS)
def test_tag_is_complete(name):
    row, cfg = entry(name), timm.get_pretrained_cfg(name)
    weights = row.weights
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", row.tag)
    published = bool(weights.url or weights.hf_hub_id or weights.page)
    assert published or any("publish" in note for note in weights.notes), "say that there is no file"
    for address in (weights.url, weights.page):
        assert address is None or urlsplit(address).scheme == "https"
    assert weights.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", weights.sha256)
    assert bool(cfg.has_weights) == published
    assert cfg.input_size == (3, weights.input_size, weights.input_size) and weights.input_size >= 32
    assert 0.5 < cfg.crop_pct <= 1 and cfg.crop_mode in ("center", "squash")
    assert cfg.interpolation == "bicubic"
    assert len(cfg.mean) == len(cfg.std) == 3
    of_imagenet = re.match(r"in\d", row.tag)
    assert weights.num_classes is None or weights.num_classes >= (1000 if of_imagenet else 2)
    assert weights.top1 is None or 70 < weights.top1 < 95
    assert weights.top1 is not None or "ft" in row.tag or not row.tag.startswith("in1k") or not published
    assert cfg.paper_name and re.fullmatch(r"arXiv:\d{4}\.\d{5}", cfg.paper_ids)
    assert urlsplit(cfg.origin_url).scheme == "https"
    assert cfg.license is None or cfg.license == cfg.license.lower()


def test_published_names_are_unambiguous():
    """A file put into the store under its authors' name belongs to one tag."""
    names = [name for tag in TAGS for name in file_names(entry(tag))]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", CLASSIFIERS)
def test_mapping_covers_the_authors_keys(path):
    name = CLASSIFIERS[path]
    state = load(FIXTURES / f"{path}.json.gz")["state_dict"]
    layout = {key: torch.empty(shape, device="meta") for key, (_, shape, _) in state.items()}
    for args in ({}, family_of(name).complete):
        model = timm.create_model(name, device="meta", **args)
        fitted(layout, model, name)  # raises for every key that is missing, left over, or of another shape


def test_pages_and_addresses_show_in_timm():
    published = {tag for tag in TAGS if timm.get_pretrained_cfg(tag).has_weights}
    assert published == set(backbones.list_models(pretrained=True)) >= {"nat_m.in1k"}
    for tag in TAGS:
        weights = entry(tag).weights
        assert timm.get_pretrained_cfg(tag).url == (weights.url or weights.page or "")
