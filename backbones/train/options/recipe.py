"""Recipes: YAML files of options, resolved with flags and ``key=value`` into one flat set of values.

A recipe file holds ``common:`` (options for all its models), ``models:`` (options by model name) and ``variants:``
(further options by name, e.g. a fine-tuning stage; each with a ``common:`` and ``models:`` of its own). The recipe
"nat" is ``configs/imagenet/nat.yaml``, "nat:name" the variant in it. A flat file of options, such as the
``recipe.yaml`` of a run or the ``args.yaml`` that timm's ``train.py`` writes, works too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from backbones.train.options import OPTIONS, OptionError, TrainOptions, timm_args
from backbones.train.options.flags import Parser, build_parser, parse_flags, read_value
from backbones.utils.text import did_you_mean

#: The resolved recipe in a run folder.
RECIPE = "recipe.yaml"
#: Keys of it that describe the outcome of resolving (for validate and predict), not options.
DERIVED = ("class_names", "recipe", "world_size", "global_batch", "resolved_lr", "versions", "command")


class RecipeError(OptionError):
    """A recipe cannot be used; the message names it and the nearest right one."""


def configs_dir() -> Path:
    """The folder of recipes: the copy that an installation carries, else ``configs/`` of the clone.

    Raises:
        RecipeError: When neither is there.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "imagenet").is_dir():
            return folder
    raise RecipeError(f"No recipes found beside {package}: reinstall the package or give --recipe a file.")


def list_recipes() -> dict[str, Path]:
    """Recipe names and files."""
    root = configs_dir()
    return {path.stem: path for path in [*sorted(root.glob("*.yaml")), *sorted((root / "imagenet").glob("*.yaml"))]}


def load_recipe(name: str) -> tuple[dict[str, Any], str | None]:
    """Content of a recipe file and the variant asked for.

    Args:
        name: A file or a name of :func:`list_recipes`, with ``:variant`` if wanted.

    Raises:
        RecipeError: For an unknown name, bad YAML, or an unknown variant.
    """
    path, _, variant = (name, "", "") if Path(name).is_file() else name.rpartition(":")
    if not path:
        path, variant = variant, ""
    file = Path(path)
    if not file.is_file():
        known = list_recipes()
        if path not in known:
            raise RecipeError(
                f"No recipe {path!r}: it is neither a file nor one of {', '.join(known)}.{did_you_mean(path, known)}"
            )
        file = known[path]
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{file} must hold a mapping of options.")
    if variant and variant not in content.get("variants", {}):
        known_variants = ", ".join(content.get("variants", {})) or "none"
        raise RecipeError(f"{file} has no variant {variant!r}; it has: {known_variants}.")
    return content, variant or None


def stored_recipe(folder: Path) -> dict[str, Any]:
    """The resolved recipe in a run folder.

    Raises:
        RecipeError: When it cannot be read, or is none.
    """
    path = folder / RECIPE
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"Cannot read {path}: {error}") from error
    if not isinstance(values, dict) or not values.get("model"):
        raise RecipeError(f"{path} is not the recipe of a run: it names no model.")
    return values


def layers_of(content: dict[str, Any], model: str | None, variant: str | None, name: str) -> list[tuple[str, dict]]:
    """The parts of a recipe that apply to a model, weakest first, each with a name for messages."""
    if timm_args.written_by_timm(content):
        return [(name, timm_args.translated(content, name))]
    if not {"common", "models", "variants", "default_model"} & content.keys():
        return [(name, {key: value for key, value in content.items() if key not in DERIVED})]
    _known(content, ("common", "models", "variants", "default_model"), name)
    parts = [(name, content)]
    if variant:
        part = content["variants"][variant]
        _known(part, ("common", "models"), f"{name}:{variant}")
        parts.append((f"{name}:{variant}", part))
    default = content.get("default_model")
    model = model or default
    if model is None:
        listed = list(dict.fromkeys(m for _, part in parts for m in part.get("models") or {}))
        raise RecipeError(f"Recipe {name} is for several models: give --model, one of {', '.join(listed)}.")
    layers: list[tuple[str, dict]] = [(name, {"model": model})]
    base = model.partition(".")[0]
    for where, part in parts:
        layers.append((where, part.get("common") or {}))
        models = part.get("models") or {}
        entry = models.get(model, models.get(base))
        if entry:
            layers.append((f"{where} ({model})", entry))
    return layers


def _known(keys: Iterable[str], allowed: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in allowed:
            raise RecipeError(f"{where}: unknown key {key!r}.{did_you_mean(key, allowed)}")


def apply_layer(
    values: dict[str, Any], origins: dict[str, str | None], layer: dict[str, Any], where: str | None
) -> None:
    """Sets the layer's values; dotted keys reach into mappings.

    Args:
        values: Changed in place; :func:`resolve` checks them when the strongest layer is in.
        origins: Where each value comes from.
        layer: What the layer says.
        where: Its name for messages; None for the command line.

    Raises:
        OptionError: For an unknown key, naming the nearest, or a mapping that is none.
    """
    if layer.get("lr_base") is not None and "lr" not in layer:
        values["lr"] = None  # the stronger layer decides which of the two forms counts
    for size, other in (("img_size", "input_size"), ("input_size", "img_size")):
        if layer.get(size) is not None and other not in layer:
            values[other] = None
    for key, value in layer.items():
        name, _, inner = str(key).replace("-", "_").partition(".")
        if name not in OPTIONS:
            raise OptionError(f"{where or 'command line'}: unknown key {key!r}.{did_you_mean(name, OPTIONS)}")
        if inner:
            if OPTIONS[name].type is not dict:
                raise OptionError(f"{where or 'command line'}: {name} is a single value, so {key!r} means nothing.")
            value = {**values[name], inner: value}
        elif OPTIONS[name].type is dict and value and where is None:
            value = {**values[name], **OPTIONS[name].check(value)}
        values[name], origins[name] = value, where


def parse_command_line(argv: Sequence[str], prog: str = "backbones-train") -> tuple[str | None, dict[str, Any]]:
    """The recipe's name, if any, and what was given by flag or ``key=value``.

    Raises:
        OptionError: For an unknown flag or key, naming the nearest, or a wrong value.
    """
    given, words = parse_flags(build_train_parser(prog), OPTIONS, argv)
    recipe = given.pop("recipe", None)
    for word in given.pop("overrides", []) + words:
        key, sign, value = word.partition("=")
        if not sign and Path(word).is_dir() and not given.get("data"):
            given["data"] = word  # timm's positional DIR
            continue
        if not sign:
            raise OptionError(
                f"Cannot read {word!r}: overrides have the form key=value, and data is one folder that exists."
            )
        given[key] = read_value(value)
    return recipe, given


def build_train_parser(prog: str = "backbones-train") -> Parser:
    """The command line of training."""
    parser = build_parser(
        OPTIONS,
        prog=prog,
        description="Train an image classifier. With no arguments: a small model on scikit-learn's handwritten digits.",
        epilog="Order of precedence: built-in defaults < recipe < flags and key=value (keys as in the recipes).",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", default=[], help="any option, or e.g. model_kwargs.kernel_size=5"
    )
    parser.add_argument("--recipe", "-c", "--config", metavar="NAME", help="recipe file or name, e.g. nat")
    return parser


def resolve(
    recipe: str | None = None, given: dict[str, Any] | None = None, stored: dict[str, Any] | None = None
) -> TrainOptions:
    """All options: built-in defaults, then the recipe, then what was given.

    Args:
        recipe: Name or file. None on the embedded digits means the demo recipe.
        given: Values from the command line; a value of None is one that was given.
        stored: Values of a resumed run, which take the recipe's place.

    Raises:
        OptionError: For an unknown key, a wrong value, or options that exclude each other.
    """
    given = dict(given or {})
    values = {option.name: option.default for option in OPTIONS.values()}
    origins: dict[str, str | None] = {}
    if stored is not None:
        layers = [("stored recipe", {key: value for key, value in stored.items() if key in OPTIONS})]
        recipe = stored.get("recipe")
    else:
        if recipe is None and not any(given.get(key) for key in ("data", "dataset", "data_dir")):
            recipe = "demo"
        layers = []
        if recipe is not None:
            content, variant = load_recipe(recipe)
            layers = layers_of(content, given.get("model"), variant, recipe)
    for where, layer in [*layers, (None, given)]:
        apply_layer(values, origins, layer, where)
    values = {name: OPTIONS[name].check(value, origins.get(name)) for name, value in values.items()}
    if values["input_size"] is not None:
        values["in_chans"] = OPTIONS["in_chans"].check(values["input_size"][0], origins.get("input_size"))
    if values["overfit"]:
        # A memorisation check: nothing that keeps the model from fitting the images exactly.
        values.update(mixup=0.0, cutmix=0.0, cutmix_minmax=None, smoothing=0.0, aug_repeats=0)
        values.update(aug_splits=0, jsd_loss=False)
    return TrainOptions(**values, recipe=recipe)
