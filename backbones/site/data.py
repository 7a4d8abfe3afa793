"""What the site tells of every model: from the registry, the tables of costs and configs, and the benchmark's csv."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import timm
from torch import nn

from backbones.benchmark.model_table import PAGE, families, read_rows
from backbones.checkpoints.table import Row, rows
from backbones.models import list_known
from backbones.models.registry import Family
from backbones.train.options.recipe import list_recipes, load_recipe
from backbones.utils.files import write_csv
from backbones.utils.profiling import count_macs

ROOT = Path(__file__).resolve().parents[2]
GROWTH = ROOT / "docs" / "growth.csv"  # multiply-adds at two sizes, by `tools/docs.py measure`
SPEED = ROOT / "docs" / "speed.csv"  # by `tools/benchmark.py models ... --tasks inference --csv docs/speed.csv`
PERMISSIVE = frozenset({"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause"})
SIDES = (512, 1024)
#: Four times the positions may cost so many times the multiply-adds where the cost is linear: padding takes the rest.
LINEAR = 4.1
_MIXER = re.compile(r"(Attention|Modulation|Gating|AttentionExpansion|ContMix|DMixer|SHSA)(2d)?$")
_FORMS = {  # names that papers write otherwise, and mechanisms that have forms for maps and for tokens
    "Token Attention": "global attention",
    "Kept Token Attention": "global attention",
    "Fitted Window Attention": "window attention",
    "In Line Attention": "InLine attention",
    "Token In Line Attention": "InLine attention",
    "Cont Mix": "ContMix",
    "Gated Cont Mix": "ContMix",
    "Re LU Linear Attention": "ReLU linear attention",
    "Bi Level Routing Attention": "bi-level routing attention",
    "Cross Shaped Attention": "cross-shaped window attention",
    "Cross Former Attention": "short- and long-distance attention",
    "Varied Size Window Attention": "varied-size window attention",
    "Softmax Free Attention": "softmax-free attention",
    "Scale Aware Modulation": "scale-aware modulation",
    "Self Guided Attention": "self-guided attention",
    "Large Kernel Attention": "large-kernel attention",
    "Gated Large Kernel Attention": "large-kernel attention",
    "D Mixer": "D-Mixer",
    "SHSA": "single-head attention",
}


@dataclass(frozen=True)
class Result:
    """A config of a detector or segmentor, with what its authors publish.

    Attributes:
        name: The config's file name without suffix.
        path: Its path in the repository.
        scores: Published results by name of the column ("box AP", "mIoU", ...).
        weights: Address of the authors' weights, or "".
    """

    name: str
    path: str
    task: str
    model: str
    scores: dict[str, float]
    weights: str = ""


@dataclass(frozen=True)
class Speeds:
    """What the benchmark measured in inference.

    Attributes:
        of: Images a second by model.
        side: Of the images, in pixels; 0 where nothing was measured.
        words: How it was measured.
    """

    of: dict[str, float]
    side: int
    words: str


@dataclass(frozen=True)
class Model:
    """One architecture.

    Attributes:
        params: Millions.
        gmacs: Multiply-adds in billions, of an image of `size` pixels a side.
        attention: Kinds of attention, or of what stands in its place.
        linear: Whether multiply-adds grow as the number of pixels; None where that was not measured.
        parity: Largest difference of logits from the authors' code, in their standard deviations; "-" for no fixture.
        speed: Measured images a second, see `speeds`; None where that was not measured.
        weights: Published sets, the default first.
        recipes: What `--recipe` and `--model` take to train it as its authors did.
    """

    name: str
    params: float
    gmacs: float
    size: int
    attention: tuple[str, ...]
    linear: bool | None
    parity: str
    speed: float | None
    weights: tuple[Row, ...]
    layers: tuple[type[nn.Module], ...] = ()
    recipes: tuple[tuple[str, str], ...] = ()
    results: tuple[Result, ...] = ()

    def best(self, task: str, column: str, dataset: str) -> float | None:
        """The best published score of its configs for `dataset`."""
        found = [r.scores[column] for r in self.results if r.task == task and dataset in r.name and column in r.scores]
        return max(found, default=None)


@dataclass(frozen=True)
class Paper:
    """The models of a paper, which have one page."""

    title: str
    arxiv: str
    families: tuple[Family, ...]
    models: tuple[Model, ...]
    slug: str = field(init=False)

    def __post_init__(self) -> None:
        words = self.short.lower().replace("+", "p")
        object.__setattr__(self, "slug", re.sub(r"[^a-z0-9]+", "-", words).strip("-"))

    @property
    def short(self) -> str:
        """The title without what follows its colon."""
        return self.title.partition(":")[0]


def mixers(model: nn.Module) -> list[type[nn.Module]]:
    """The classes of attention, or of what stands in its place, that a model is built of, in their order."""
    kinds = dict.fromkeys(type(module) for module in model.modules())
    return [
        kind
        for kind in kinds
        if kind.__module__.startswith(("backbones.", "timm.models.")) and _MIXER.search(kind.__qualname__)
    ]


def kind_of(layer: type[nn.Module]) -> str:
    """The name of a mechanism in words: "neighborhood attention" of `NeighborhoodAttention2d`."""
    words = " ".join(re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]+|[A-Z]+", layer.__qualname__.removesuffix("2d")))
    return _FORMS.get(words, words.lower())


def recipes() -> dict[str, list[tuple[str, str]]]:
    """Recipes by the model that they name: what `--recipe` and `--model` take."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in list_recipes():
        content, _ = load_recipe(name)
        for variant, part in {"": content, **(content.get("variants") or {})}.items():
            for model in part.get("models") or ():
                recipe = f"{name}:{variant}" if variant else name
                found.setdefault(model.partition(".")[0], []).append((recipe, model))
    return found


def results() -> dict[str, list[Result]]:
    """Configs of detectors and segmentors by model: the one that they name, or inherit and are named for."""
    from backbones.dense.config_table import COLUMNS, CONFIGS, config_paths, read_cells

    found: dict[str, list[Result]] = {}
    for task, columns in COLUMNS.items():
        cells = read_cells((CONFIGS / task / "README.md").read_text(encoding="utf-8"), task)
        for path in config_paths(task):
            row = cells[path.stem]
            scores = {name: float(cell) for name, cell in zip(columns, row[1:]) if re.fullmatch(r"[\d.]+", cell)}
            link = re.search(r"\((\S+)\)", row[-1])
            named = re.search(r'\bmodel="(\w+)', path.read_text(encoding="utf-8"))
            model = named[1] if named else path.stem.split("_")[1].replace("-", "_")
            where = path.relative_to(CONFIGS.parent).as_posix()
            found.setdefault(model, []).append(Result(path.stem, where, task, model, scores, link[1] if link else ""))
    return found


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def speeds() -> Speeds:
    """The rows of inference of `docs/speed.csv`.

    Raises:
        ValueError: The csv holds more than one setting, so that its rows cannot be compared.
    """
    table = [row for row in _read(SPEED) if row["task"] == "inference"]
    settings = {(row["size"], row["batch"], row["precision"], row["mode"]) for row in table}
    if not table:
        return Speeds({}, 0, "not measured")
    if len(settings) > 1:
        raise ValueError(f"{SPEED} holds several settings: measure all models in one.")
    size, batch, precision, mode = settings.pop()
    machine = f"a machine of {float(table[0]['machine_gflop_per_s']):.0f} GFLOP/s"
    words = f"inference of {size} images, batch {batch}, {precision}, {mode}, on {machine}"
    return Speeds({row["model"]: float(row["img_per_s"]) for row in table}, int(size.split("x")[0]), words)


def _groups(filter: str = "") -> Iterator[tuple[Family, tuple[str, ...], dict[str, nn.Module]]]:
    """Models on the meta device, those of a family with the same kinds of attention together."""
    wanted = set(list_known(filter))
    for family, names in families():
        groups: dict[tuple[str, ...], dict[str, nn.Module]] = {}
        for name in names:
            if name not in wanted:
                continue
            model = timm.create_model(name, device="meta")
            kinds = tuple(dict.fromkeys(kind_of(layer) for layer in mixers(model)))
            groups.setdefault(kinds, {})[name] = model
        for kinds, models in groups.items():
            yield family, kinds, models


def measure() -> None:
    """Writes `docs/growth.csv`: multiply-adds at two sizes of the first model of a family and kind of attention."""
    table = []
    for _, kinds, models in _groups():
        name, model = next(iter(models.items()))
        print(f"counting {name}", file=sys.stderr)
        macs = {f"gmacs_{side}": round(count_macs(model, (3, side, side)) / 1e9, 3) for side in SIDES}
        table.append({"model": name, "attention": ", ".join(kinds), **macs})
    write_csv(str(GROWTH), table)


def _paper(entry: tuple[Family, list[Model]]) -> tuple[str, str]:
    return entry[0].paper_name, entry[0].paper_ids


def papers(filter: str = "") -> list[Paper]:
    """Every paper with its models, ordered by title.

    Args:
        filter: Wildcard that models' names match.
    """
    costs = read_rows(PAGE.read_text(encoding="utf-8"))
    growth = {row["model"]: [float(row[f"gmacs_{side}"]) for side in SIDES] for row in _read(GROWTH)}
    weights: dict[str, list[Row]] = {}
    for row in rows(list_known(filter)):
        weights.setdefault(row.entry.model, []).append(row)
    speed, recipe_of, result_of = speeds().of, recipes(), results()
    entries: dict[int, tuple[Family, list[Model]]] = {}
    for family, kinds, models in _groups(filter):
        macs = next((growth[name] for name in models if name in growth), None)
        for name, module in models.items():
            _, params, gmacs, _, parity = costs[name]
            number, _, size = gmacs.partition(" ")
            model = Model(
                name,
                float(params),
                float(number),
                int(size.strip("()")),
                kinds,
                macs[1] / macs[0] <= LINEAR if macs else None,
                parity,
                speed.get(name),
                tuple(weights[name]),
                tuple(mixers(module)),
                tuple(recipe_of.get(name, ())),
                tuple(result_of.get(name, ())),
            )
            entries.setdefault(id(family), (family, []))[1].append(model)
    found = []
    for (title, ids), group in groupby(sorted(entries.values(), key=_paper), key=_paper):
        members = list(group)
        models = tuple(model for _, part in members for model in part)
        found.append(Paper(title, ids.removeprefix("arXiv:"), tuple(family for family, _ in members), models))
    return found


def explorer_rows(found: list[Paper]) -> list[dict[str, object]]:
    """A row for every published set of weights, as the explorer reads it."""
    table, side = [], speeds().side
    for paper in found:
        for model in paper.models:
            for row in model.weights:
                table.append(
                    {
                        "name": row.entry.name,
                        "model": model.name,
                        "family": paper.short,
                        "page": f"families/{paper.slug}.html#{model.name}",
                        "params": round(row.parameters, 1),
                        "gmacs": model.gmacs if row.image == model.size else None,
                        "size": row.image,
                        "top1": row.entry.weights.top1,
                        "speed": model.speed if row.image == side else None,
                        "licence": row.licence,
                        "permissive": row.licence in PERMISSIVE,
                        "attention": list(model.attention),
                        "linear": model.linear,
                        "box": model.best("detection", "box AP", "coco"),
                        "miou": model.best("segmentation", "mIoU", "ade20k"),
                        "source": row.kind,
                        "published": row.kind != "not published",
                    }
                )
    return table
