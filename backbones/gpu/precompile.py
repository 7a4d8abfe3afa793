"""Compilation ahead of the parts that measure: fills the caches of Inductor and Triton while other parts prove."""

from __future__ import annotations

import gc
from functools import partial

import torch

from backbones.gpu import speed
from backbones.gpu.results import Case, Results, Setting


def cases(setting: Setting, results: Results) -> list[Case]:
    """One case a model and setting, in the order in which they are timed."""
    compiled = [each for each in speed.model_settings(setting.tiny) if each.compiled]
    return [
        Case("best tiles of the kernels", partial(speed.search_tiles, setting, results)),
        *(
            Case(f"{speed.describe(each)}: {name}", partial(compile_model, name, each, setting))
            for each in compiled
            for name in speed.MODELS
        ),
    ]


def compile_model(name: str, each: speed.ModelSetting, setting: Setting) -> None:
    """Run a compiled model once."""
    torch.compiler.reset()
    speed.warmed_up(name, each, setting)
    gc.collect()
    torch.cuda.empty_cache()
