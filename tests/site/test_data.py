"""What the site tells, against the registry, the recipes and the configs that it tells of."""

from __future__ import annotations

import csv

import pytest
import timm

from backbones.benchmark.model_table import families
from backbones.models import family_of, list_known
from backbones.models.registry import Variant
from backbones.site import data
from backbones.site.data import PERMISSIVE, explorer_rows, kind_of, mixers, papers, recipes, results, speeds
from backbones.utils.files import write_csv


@pytest.fixture(scope="module")
def van():
    (paper,) = papers("van_b*")
    return paper


def growth() -> set[str]:
    with open(data.GROWTH, newline="", encoding="utf-8") as file:
        return {row["model"] for row in csv.DictReader(file)}


def test_every_family_has_its_growth_measured():
    """`python tools/docs.py measure` writes it."""
    missing = [names[0] for _, names in families() if names[0] not in growth()]
    assert not missing, "run python tools/docs.py measure"


def test_papers(van):
    assert (van.slug, van.arxiv) == ("visual-attention-network", "2202.09741")
    assert [model.name for model in van.models] == [f"van_b{size}" for size in range(7)]
    smallest = van.models[0]
    assert (smallest.params, smallest.gmacs, smallest.size, smallest.linear) == (4.1, 0.9, 224, True)
    assert smallest.attention == ("large-kernel attention",)
    assert smallest.recipes == (("van", "van_b0"),)
    assert {row.entry.name for row in van.models[4].weights} == {"van_b4.in1k", "van_b4.in22k"}


def test_cost_that_is_not_linear():
    (paper,) = papers("vitrpb_s")
    assert paper.models[0].attention == ("global attention",) and paper.models[0].linear is False


def test_explorer_rows(van):
    rows = {row["name"]: row for row in explorer_rows([van])}
    assert len(rows) == sum(len(family_of(model.name).variants[model.name].weights) for model in van.models)
    row = rows["van_b2.in1k"]
    assert (row["top1"], row["licence"], row["permissive"], row["published"]) == (82.8, "apache-2.0", True, True)
    assert row["page"] == "families/visual-attention-network.html#van_b2"
    best = max(result.scores["mIoU"] for result in van.models[2].results if result.task == "segmentation")
    assert row["miou"] == best
    assert family_of("van_b2").license in PERMISSIVE


def test_speed_is_told_of_weights_of_the_measured_size(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SPEED", tmp_path / "speed.csv")
    write_csv(str(data.SPEED), [speed_row("maxvit_t")])
    rows = {row["name"]: row["speed"] for row in explorer_rows(papers("maxvit_t"))}
    assert rows == {"maxvit_t.in1k": 31.5, "maxvit_t.in1k_384": None, "maxvit_t.in1k_512": None}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("nat_m", ["neighborhood attention"]),
        ("maxvit_t", ["window attention", "grid attention"]),
        ("shvit_s1", ["single-head attention"]),
    ],
)
def test_kinds_of_attention(name, kinds):
    found = mixers(timm.create_model(name, device="meta"))
    assert list(dict.fromkeys(map(kind_of, found))) == kinds


def test_recipes_and_results_name_models_of_the_zoo():
    known = set(list_known())
    assert len(recipes()) > 150 and set(recipes()) <= known
    found = results()
    assert set(found) <= known
    assert sum(len(configs) for configs in found.values()) == sum(
        len(list((data.ROOT / "configs" / task).glob("*/*.py"))) for task in ("detection", "segmentation")
    )
    (config,) = (one for one in found["overlock_t"] if one.name == "mask-rcnn_overlock-t_fpn_1x_coco")
    assert config.scores == {"box AP": 48.3, "mask AP": 43.3} and config.weights.endswith(".pth")


def speed_row(model: str, **changed) -> dict[str, object]:
    row = {"model": model, "task": "inference", "size": "224x224", "batch": 8, "precision": "float32", "mode": "eager"}
    return {**row, "img_per_s": 31.5, "machine_gflop_per_s": 490.2, **changed}


def test_speeds(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SPEED", tmp_path / "speed.csv")
    assert (speeds().of, speeds().words) == ({}, "not measured")
    write_csv(str(data.SPEED), [speed_row("nat_m"), speed_row("nat_t", task="training", img_per_s=1)])
    found = speeds()
    assert (found.of, found.side) == ({"nat_m": 31.5}, 224)
    assert "batch 8" in found.words and "490 GFLOP/s" in found.words
    write_csv(str(data.SPEED), [speed_row("nat_m"), speed_row("nat_t", batch=1)])
    with pytest.raises(ValueError, match="several settings"):
        speeds()


def test_measured_speeds_are_of_models_of_the_zoo():
    assert set(speeds().of) <= set(list_known())


def test_slugs_are_different():
    titles = {(family.paper_name, family.paper_ids) for family, _ in families()}
    slugs = {data.Paper(title, ids, (), ()).slug for title, ids in titles}
    assert len(slugs) == len(titles)


def test_variant_has_weights():
    """A page tells of a model by its sets of weights."""
    variants: list[Variant] = [variant for family, _ in families() for variant in family.variants.values()]
    assert all(variant.weights for variant in variants)
