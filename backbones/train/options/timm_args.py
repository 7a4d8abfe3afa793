"""The ``args.yaml`` that timm's ``train.py`` writes, as a recipe.

It holds every flag of timm, so that timm's defaults come with it; the names are nearly all the same here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbones.train.options.option import OptionError
from backbones.train.options.training import OPTIONS

#: Flags that change how timm computes, not what, or that speak of one run only.
_WITHOUT_EFFECT = {
    "rank", "local_rank", "world_size", "distributed", "device_modules", "no_prefetcher", "prefetcher", "fuser",
    "use_multi_epochs_loader", "save_images", "synchronize_step", "worker_seeding", "fast_norm", "torchscript", "tta",
    "dataset_trust_remote_code", "recovery_interval", "wandb_resume_id", "model_ema_force_cpu", "kd_loss_type",
    "no_resume_opt", "resume", "kd_student_feature_dim", "kd_teacher_feature_dim", "amp_impl", "config",
}  # fmt: skip

#: Flags that change what timm computes and have no counterpart: what they are when they do nothing, and what to do.
_WITHOUT_COUNTERPART = {
    "epoch_repeats": (0, "raise epochs"),
    "start_epoch": (None, "continue a run by --resume"),
    "drop_connect": (None, "give drop_path"),
    "drop_block": (None, "give it in model_kwargs"),
    "bn_momentum": (None, "give it in model_kwargs"),
    "bn_eps": (None, "give it in model_kwargs"),
    "split_bn": (False, "leave it out"),
    "resplit": (False, "leave it out"),
    "layer_decay_no_opt_scale": (None, "leave it out"),
    "naflex_loader": (False, "leave it out"),
    "input_img_mode": (None, "give in_chans"),
}


def written_by_timm(content: Mapping[str, Any]) -> bool:
    """Whether a flat file of options is timm's: it holds flags that every args.yaml has and no recipe."""
    return {"no_prefetcher", "worker_seeding"} <= content.keys()


def translated(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of an args.yaml in the names and values of ours.

    Args:
        content: The file's mapping.
        where: Its name, for messages.

    Raises:
        OptionError: For a flag that has no counterpart and would change the result.
    """
    result = {}
    for key, value in content.items():
        if key in _WITHOUT_EFFECT or (key.startswith("naflex_") and key != "naflex_loader"):
            continue
        if key in _WITHOUT_COUNTERPART:
            neutral, remedy = _WITHOUT_COUNTERPART[key]
            if value != neutral and value is not None:
                raise OptionError(f"{where}: timm's {key}={value} has no counterpart here: {remedy}.")
            continue
        if key not in OPTIONS and value in (None, False, 0, "", []):
            continue  # a flag of a later timm that is off
        if key in OPTIONS and value in (None, "") and not OPTIONS[key].optional:
            value = {"dist_bn": "none", "lr_base_scale": _scale(str(content.get("opt", "sgd")))}.get(key)
            if value is None:
                continue
        result[key] = value
    return result


def _scale(optimizer: str) -> str:
    """How timm scales the learning rate when nobody says: by the root for optimisers that normalise gradients."""
    return "sqrt" if any(name in optimizer.lower() for name in ("ada", "lamb")) else "linear"
