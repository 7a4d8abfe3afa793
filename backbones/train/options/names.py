"""Names that timm and torch know, and checks of values that they parse; both are imported when asked for."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from backbones.utils.text import did_you_mean

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")
SCHEDULERS = ("cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant", "plateau", "none")
DTYPES = ("float32", "bfloat16", "float16")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

A_MODEL = "a model of timm or of backbones"
A_POLICY = "a policy such as rand-m9-mstd0.5-inc1, augmix-m5-w4-d2, original-mstd0.5, v0 or 3a"

#: Arguments of models that have an option of their own, which would override them.
OWN_OPTIONS = {
    "num_classes": "--num-classes",
    "in_chans": "--in-chans",
    "drop_path_rate": "--drop-path",
    "drop_rate": "--drop",
    "global_pool": "--gp",
    "pretrained": "--pretrained",
}


def model(name: str) -> None:
    """Raises ValueError for an architecture or tag that timm does not know, with the nearest names."""
    import timm

    import backbones  # noqa: F401 (registers the models)

    if name.partition(":")[0] in ("hf-hub", "hf_hub", "local-dir"):
        return
    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        hint = did_you_mean(arch.lower(), timm.list_models()) or " timm.list_models() lists every name."
        raise ValueError(f"must be {A_MODEL}, not {name!r}.{hint}")
    tags = [known for known in timm.models.get_arch_pretrained_cfgs(arch) if known.partition(".")[2]]
    if tag and name not in tags:
        known = f"it has {', '.join(tags)}" if tags else f"it has none; use {arch!r}"
        raise ValueError(f"must have weights of that tag, which {name!r} has not: {known}.")


def optimizer(name: str) -> None:
    """Raises ValueError for a name that timm does not know, or whose package is not installed."""
    from timm.optim import get_optimizer_class, list_optimizers

    known, plain = list_optimizers(), name.lower().removeprefix("lookahead_")
    if plain not in known:
        raise ValueError(f"must be an optimiser of timm.optim, not {name!r}.{did_you_mean(plain, known)}")
    try:
        get_optimizer_class(plain, bind_defaults=False)
    except (ImportError, AssertionError, ValueError) as error:
        raise ValueError(f"must be an optimiser that works here, not {name!r} ({error}).") from None


def compile_backend(name: str) -> None:
    """Raises ValueError for a backend that torch.compile does not have."""
    from torch.compiler import list_backends

    known = list_backends(exclude_tags=())
    if name not in known:
        raise ValueError(f"must be a backend of torch.compile, not {name!r}.{did_you_mean(name, known)}")


def device(name: str) -> None:
    """Raises ValueError for anything but cuda, cpu and mps, and for one that this machine lacks."""
    import torch

    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f"must be cuda, cpu or mps, not {name!r}.")
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not here[name.partition(":")[0]]:
        able = ", ".join(kind for kind, usable in here.items() if usable)
        raise ValueError(f"must be a device of this machine ({able}), not {name!r}.")
    if name.startswith("cuda:") and int(name.partition(":")[2]) >= torch.cuda.device_count():
        raise ValueError(f"must be below cuda:{torch.cuda.device_count()}, the number of GPUs here, not {name!r}.")


def auto_augment(policy: str) -> None:
    """Raises ValueError for a policy that timm cannot parse."""
    from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform

    family = policy.partition("-")[0]
    makers = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    known = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")
    if family not in known:
        raise ValueError(f"must be {A_POLICY}, not {policy!r}.{did_you_mean(family, known)}")
    for section in policy.split("-")[1:]:
        if not re.fullmatch(r"t[a-z0-9]+|[a-z]+(\d+(\.\d+)?|inf)", section):
            raise ValueError(f"must be {A_POLICY}, not {policy!r} (no meaning: {section!r}).")
    try:
        makers.get(family, auto_augment_transform)(policy, {"translate_const": 100, "img_mean": (124, 116, 104)})
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"must be {A_POLICY}, not {policy!r} ({error}).") from None


def wandb(wanted: bool) -> None:
    """Raises ValueError when Weights & Biases is wanted and not installed."""
    if wanted and importlib.util.find_spec("wandb") is None:
        raise ValueError("needs a package that is not installed: pip install wandb.")


def model_arguments(arguments: Mapping[str, Any]) -> None:
    """Raises ValueError for arguments of a model that have an option of their own."""
    for name in arguments:
        if name in OWN_OPTIONS:
            raise ValueError(f"must not hold {name}, which has an option of its own: {OWN_OPTIONS[name]}.")


def regex(pattern: str) -> None:
    """Raises ValueError for what is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"must be a regular expression, not {pattern!r} ({error}).") from None
