"""From what a user names (a model, a run folder, a checkpoint) to a loaded model with its preprocessing and classes."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config
from timm.models import get_model_input_config, resolve_model_input_args
from timm.utils.model import reparameterize_model
from torch import nn

from backbones.checkpoints import WeightsError, averaged, read_checkpoint, renamed, tensors_of
from backbones.checkpoints.convert import misfit
from backbones.checkpoints.report import LoadReport, load_report, record_loading
from backbones.checkpoints.store import file_sha256
from backbones.train.options import names
from backbones.train.options.recipe import RECIPE, stored_recipe
from backbones.utils.text import did_you_mean, first_line

#: Recipe keys of a run folder that fix how images are prepared.
PREPROCESSING = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
_CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".th")


class ModelError(RuntimeError):
    """The model or its weights cannot be used as given; the message names what is wrong and what to do."""


class LoadedModel(NamedTuple):
    """What :func:`load_model` returns.

    Attributes:
        model: In eval mode, on the CPU.
        data_config: timm's: `input_size` (C, H, W), `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`.
        class_names: A name for each output, or None when nothing tells. Published ImageNet models have WordNet ids
            here; :func:`describe_classes` puts them into words.
        report: How the weights fitted; None for random ones.
    """

    model: nn.Module
    data_config: dict[str, Any]
    class_names: list[str] | None
    report: LoadReport | None


@dataclass
class _Source:
    """A resolved `spec`: the model's name, the weights' file, and the recipe of the run it came from."""

    name: str
    checkpoint: Path | None = None
    recipe: dict[str, Any] = field(default_factory=dict)


def check_model_name(name: str) -> str:
    """`name` if timm can build it.

    Raises:
        ModelError: For an unknown architecture or tag, with the nearest names.
    """
    try:
        names.model(name)
    except ValueError as error:
        raise ModelError(f"The model {error}") from None
    return name


def recipe_of(spec: str) -> dict[str, Any]:
    """The recipe beside a run folder or a checkpoint in one; empty for anything else."""
    path = Path(spec)
    folder = path if path.is_dir() else path.parent if path.is_file() else None
    return stored_recipe(folder) if folder is not None and (folder / RECIPE).is_file() else {}


def _run_weights(folder: Path, use_ema: bool) -> Path:
    suffix = "_ema" if use_ema else ""
    for name in (f"best{suffix}.safetensors", f"last{suffix}.safetensors"):
        if (folder / name).is_file():
            return folder / name
    if use_ema:
        raise ModelError(
            f"{folder} holds no EMA weights (best_ema.safetensors): train with --model-ema or drop --use-ema."
        )
    raise ModelError(f"{folder} holds neither best.safetensors nor last.safetensors: the run has saved nothing yet.")


def _resolve(spec: str, checkpoint: str | Path | None, use_ema: bool) -> _Source:
    """Tells a run folder, a checkpoint inside one, timm's own export folder and a model's name apart."""
    path = Path(spec)
    source: _Source
    if path.is_dir() and (path / RECIPE).is_file():
        recipe = stored_recipe(path)
        source = _Source(recipe["model"], None if checkpoint else _run_weights(path, use_ema), recipe)
    elif path.is_dir() and (path / "config.json").is_file():
        source = _Source(f"local-dir:{path}")
    elif path.is_dir():
        raise ModelError(f"{spec} is a folder without recipe.yaml: give the folder of a run, or a model's name.")
    elif path.is_file():
        if checkpoint:
            raise ModelError(f"{spec} is a checkpoint already: give --checkpoint only with a model's name.")
        if not (path.parent / RECIPE).is_file():
            raise ModelError(
                f"There is no recipe.yaml beside {spec}: name its model, as in --model NAME --checkpoint {spec}."
            )
        recipe = stored_recipe(path.parent)
        if use_ema and path.stem in ("best", "last"):
            ema = path.with_name(f"{path.stem}_ema{path.suffix}")
            if not ema.is_file():
                raise ModelError(f"There are no EMA weights {ema}: train with --model-ema or drop --use-ema.")
            path = ema
        source = _Source(recipe["model"], path, recipe)
    elif path.suffix in _CHECKPOINT_SUFFIXES or (("/" in spec or "\\" in spec) and ":" not in spec):
        raise ModelError(f"{spec} does not exist: give a model's name, the folder of a run, or a checkpoint file.")
    else:
        source = _Source(spec)
    if checkpoint:
        source.checkpoint = Path(checkpoint)
    check_model_name(source.name)
    return source


def _read_weights(path: Path, use_ema: bool) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint (safetensors, or torch without pickled code), below its usual wrapper key."""
    if not path.is_file():
        raise ModelError(f"Checkpoint {path} does not exist.")
    try:
        checkpoint = read_checkpoint(path)
        return tensors_of(averaged(checkpoint) if use_ema else checkpoint, path)
    except WeightsError as error:
        raise ModelError(str(error)) from error


def _class_hint(model: nn.Module, state: Mapping[str, torch.Tensor]) -> str:
    """The remedy when the file's classifier has another number of classes, else empty."""
    classifiers = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    own = model.state_dict()
    for name in (classifiers,) if isinstance(classifiers, str) else classifiers:
        for key in (f"{name}.bias", f"{name}.weight"):
            if key in own and key in state and len(own[key]) != len(state[key]):
                return (
                    f" The file's classifier has {len(state[key])} classes and the model {len(own[key])}: "
                    f"pass --num-classes {len(state[key])}."
                )
    return ""


@contextlib.contextmanager
def creating(
    name: str,
    arguments: Mapping[str, Any],
    flag: str = "--model-kwargs",
    loads: str | None = None,
    remedy: str = "give a file with --checkpoint",
) -> Iterator[None]:
    """Inside, a model that cannot be created, or whose weights cannot be had, ends in one sentence.

    Args:
        name: The model.
        arguments: What the user gave its constructor.
        flag: By which flag.
        loads: Which weights are loaded too, e.g. "published weights"; None for none.
        remedy: What to do where they cannot be had.

    Raises:
        ModelError: For an argument that the model does not take, naming the nearest, a value that it refuses, or
            weights that are not there or do not fit.
    """
    try:
        yield
    except WeightsError as error:
        raise ModelError(str(error)) from error
    except ModelError:
        raise
    except OSError as error:  # the hub's errors for no connection, no repository and no access derive from it
        raise ModelError(f"Cannot fetch the weights of {name} ({first_line(error)}): {remedy}.") from error
    except Exception as error:  # a constructor given a value of any kind may fail in any way
        reason = " ".join(str(error).split())[:600].rstrip(".") or type(error).__name__
        unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", reason)
        if unknown and isinstance(error, TypeError):
            owner, argument = unknown.groups()
            own = names.OWN_OPTIONS.get(argument)
            if own is not None and argument not in arguments:
                raise ModelError(f"{name} takes no {argument}: leave out {own}.") from error
            kind = getattr(inspect.getmodule(timm.model_entrypoint(name.partition(".")[0])), owner, None)
            taken = list(inspect.signature(kind).parameters) if kind is not None else []
            raise ModelError(f"{flag}: {name} takes no {argument}.{did_you_mean(argument, taken)}") from error
        if loads and isinstance(error, RuntimeError):
            if reason.startswith("No pretrained weights"):
                raise ModelError(f"{name} has no published weights: {remedy}.") from error
            raise ModelError(f"Cannot load {loads} into {name}: {reason}.") from error
        if not arguments:
            raise
        given = " ".join(f"{key}={value}" for key, value in arguments.items())
        raise ModelError(f"{flag} {given}: {name} refuses that: {reason}.") from error


def _build(
    name: str, pretrained: bool, state: Mapping[str, torch.Tensor] | None = None, **kwargs: Any
) -> tuple[nn.Module, LoadReport | None]:
    """`timm.create_model` with its failures as one sentence each; `state` goes through the model's own key mapping."""
    size, arguments = kwargs.pop("img_size", None), kwargs.pop("arguments")
    kwargs = {**arguments, **kwargs}
    loads = "published weights" if pretrained else None
    remedy = "give a file with --checkpoint, or --no-pretrained for random weights"
    with creating(name, {} if state is not None else arguments, loads=loads, remedy=remedy):
        args = resolve_model_input_args(name, {"img_size": size, "in_chans": kwargs.pop("in_chans", None)}, **kwargs)
        cfg = args["pretrained_cfg"]
        if state is not None:
            # Told that the file has the model's own number of classes and channels, timm loads it strictly.
            cfg.update(state_dict=dict(state), custom_load=False)
            cfg["num_classes"] = args.get("num_classes") or cfg["num_classes"]
            cfg["input_size"] = (args.get("in_chans") or cfg["input_size"][0], *cfg["input_size"][1:])
        with record_loading() as reports:
            model = timm.create_model(args.pop("model_name"), pretrained=pretrained or state is not None, **args)
    model.pretrained_cfg.pop("state_dict", None)  # do not keep a second copy of the weights alive
    return model, reports[-1] if reports else None


def _load_file(source: _Source, use_ema: bool, **kwargs: Any) -> tuple[nn.Module, LoadReport]:
    """Builds the model and loads its file strictly, under its own keys or through the mapping of the authors' ones."""
    state = renamed(_read_weights(source.checkpoint, use_ema), source.name)
    model, _ = _build(source.name, False, **kwargs)
    problem = misfit(model, state, strict=True)
    if not problem:
        model.load_state_dict(state, strict=True)
        return model, load_report(model, state, source.checkpoint)
    hint = _class_hint(model, state)
    failure = ModelError(f"Checkpoint {source.checkpoint} does not fit {source.name}: {problem}.{hint}")
    try:
        model, report = _build(source.name, False, state=state, **kwargs)
    except ModelError:
        raise
    except (RuntimeError, KeyError, AttributeError, ValueError, IndexError) as error:
        raise failure from error
    if report is None or not report.complete:
        raise failure
    report.source, report.sha256 = str(source.checkpoint), file_sha256(source.checkpoint)
    return model, report


def _resize(model: nn.Module, name: str, size: Sequence[int]) -> None:
    """Tells a model that stores its image size about another one; models that take any size need nothing."""
    if not get_model_input_config(model)["fixed_input_size"]:
        return
    if not hasattr(model, "set_input_size"):
        raise ModelError(f"{name} takes one image size only: drop --img-size.")
    try:
        model.set_input_size(img_size=tuple(size))
    except (AssertionError, ValueError, RuntimeError) as error:
        raise ModelError(f"{name} cannot take images of {size[0]} x {size[1]}: {error}") from error


def _pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    if isinstance(size, int):
        return size, size
    return int(size[-2]), int(size[-1])


def class_names_of(model: nn.Module, recipe: Mapping[str, Any] | None = None) -> list[str] | None:
    """A name for every output: from the run's recipe, the weights' own labels, or WordNet ids for ImageNet heads."""
    names = (recipe or {}).get("class_names") or (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if names and len(names) == model.num_classes:
        return [str(name) for name in names]
    subset = infer_imagenet_subset(model) if model.num_classes else None
    return list(ImageNetInfo(subset).label_names()) if subset else None


def describe_classes(class_names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Class names for people: WordNet ids become words ("n01440764": "tench, Tinca tinca"), missing names numbers."""
    if class_names is None:
        return [f"class {index}" for index in range(num_classes)]
    if all(re.fullmatch(r"n\d{8}", name) for name in class_names):
        info = ImageNetInfo()  # its table of words covers the whole of WordNet's nouns
        try:
            return [info.label_name_to_description(name) for name in class_names]
        except KeyError:
            pass
    return list(class_names)


def data_config(
    model: nn.Module,
    given: Mapping[str, Any],
    channels: int | None = None,
    size: Sequence[int] | None = None,
    use_test_size: bool = False,
) -> dict[str, Any]:
    """timm's preprocessing of a model: input_size (C, H, W), mean, std, interpolation, crop_pct and crop_mode.

    Args:
        model: The model.
        given: Overrides, by these names; other keys and None are left out. Means and deviations that are not one for
            each channel are averaged over the colours, as a grey image is.
        channels: Image channels, when they differ.
        size: Height and width, when they differ.
        use_test_size: Take the published size and crop of evaluation, where the weights have one.
    """
    args = {key: given[key] for key in ("interpolation", "crop_pct", "crop_mode") if given.get(key) is not None}
    config = resolve_data_config(args, model=model, use_test_size=use_test_size)
    channels = channels or config["input_size"][0]
    config["input_size"] = (channels, *(size or config["input_size"][1:]))
    for key in ("mean", "std"):
        values = tuple(given.get(key) or config[key])
        config[key] = values if len(values) == channels else (sum(values) / len(values),) * channels
    return config


def load_model(
    spec: str,
    checkpoint: str | Path | None = None,
    *,
    pretrained: bool | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | Sequence[int] | None = None,
    data_args: Mapping[str, Any] | None = None,
    use_ema: bool = False,
    use_test_size: bool = True,
    reparam: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Loads a model for evaluation, strictly, with the preprocessing and class names that belong to it.

    Args:
        spec: A timm model name (with or without tag), a run folder, a checkpoint inside one, or a folder that
            `timm.models.save_for_hf` wrote.
        checkpoint: Weights for `spec`: safetensors or a torch file, with our keys or the authors'.
        pretrained: Fetch the published weights. By default yes, when no file gives weights.
        num_classes: Outputs, when they differ from the model's default.
        in_chans: Input channels, when they differ.
        img_size: Evaluate at this size (H = W, or (H, W)) in pixels instead of the recipe's or the weights' own.
        data_args: Overrides of the preprocessing: `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`.
        use_ema: Load the averaged weights.
        use_test_size: Evaluate at the published test size and crop, where the weights have one.
        reparam: Merge re-parameterisable blocks (`timm.utils.model.reparameterize_model`) after loading.
        model_kwargs: Further constructor arguments.

    Raises:
        ModelError: For an unknown name, an unreadable or ill-fitting checkpoint, or arguments the model does not take.
    """
    source = _resolve(str(spec), checkpoint, use_ema)
    recipe = source.recipe
    kwargs: dict[str, Any] = {"arguments": {**(recipe.get("model_kwargs") or {}), **(model_kwargs or {})}}
    kwargs["num_classes"] = num_classes if num_classes is not None else recipe.get("num_classes")
    kwargs["in_chans"] = in_chans if in_chans is not None else recipe.get("in_chans")
    if recipe.get("gp"):
        kwargs.setdefault("global_pool", recipe["gp"])
    trained_size = _pair(recipe.get("input_size") or recipe.get("img_size"))
    if trained_size is not None:
        kwargs["img_size"] = trained_size[0] if trained_size[0] == trained_size[1] else trained_size

    report = None
    if source.checkpoint is not None:
        model, report = _load_file(source, use_ema, **kwargs)
    else:
        fetch = pretrained is None or pretrained
        model, report = _build(source.name, fetch, **kwargs)
        published = (model.pretrained_cfg or {}).get("num_classes")
        if fetch and num_classes is not None and published != num_classes:
            raise ModelError(
                f"The published weights of {source.name} have {published} classes, so a head for {num_classes} would "
                "be random: give --checkpoint, or drop --num-classes."
            )

    given = {key: recipe[key] for key in PREPROCESSING if recipe.get(key) is not None}
    given.update({key: value for key, value in (data_args or {}).items() if value is not None})
    config = data_config(model, given, kwargs["in_chans"], _pair(img_size) or trained_size, use_test_size)
    _resize(model, source.name, config["input_size"][1:])
    if reparam:
        model = reparameterize_model(model)
    return LoadedModel(model.eval(), config, class_names_of(model, recipe), report)
