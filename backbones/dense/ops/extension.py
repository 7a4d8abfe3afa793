"""The module that mmcv's Python imports as `mmcv._ext`, its compiled operators, and which one that is."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

import torch

from backbones.dense.ops import attention, boxes, convolution, losses, reassembly, regions
from backbones.utils.text import first_line
from backbones_mmcv import NAME

BUILD = (
    "`MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv`, which"
    " needs ninja, psutil, a C++ compiler and, for GPUs, torch's version of the CUDA toolkit"
)


class OperatorsError(RuntimeError):
    """An operator of mmcv cannot be used; the message is one sentence with the remedy.

    Not an `ImportError`, which mmengine's `custom_imports` would replace by one that blames the search path.
    """


class Extension(ModuleType):
    """Stands in for mmcv's compiled module: the operators of this package, and an error for a call of any other."""

    def __init__(self) -> None:
        super().__init__(NAME, __doc__)
        for module in (attention, boxes, convolution, losses, reassembly, regions):
            for name in module.OPERATORS:
                setattr(self, name, getattr(module, name))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise OperatorsError(f"mmcv's operator {name} is not provided by backbones: build mmcv with it by {BUILD}.")

        missing.__name__ = name
        return missing

    @staticmethod
    def get_compiler_version() -> str:
        return "none (operators of backbones)"

    @staticmethod
    def get_compiling_cuda_version() -> str:
        return "not available"


def fault(module: ModuleType) -> str | None:
    """What is wrong with mmcv's compiled operators, in a few words; None where they work.

    A build for another torch, or one made where no GPU was visible, can be imported like a good one and fail in the
    first detector; so an operator is called.
    """
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9], [5.0, 5.0, 9.0, 9.0]])
    try:
        kept = module.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5, offset=0).tolist()
        cuda = module.get_compiling_cuda_version()
    except Exception as error:  # whatever a wrong build raises
        return first_line(error)
    if kept != [0, 2]:
        return f"nms kept {kept} where it must keep [0, 2]"
    if cuda == "not available" and torch.cuda.is_available():
        return "they were built without CUDA"
    return None


def load(compiled: ModuleSpec | None) -> ModuleType:
    """The module that is imported as `mmcv._ext`: the compiled one that was found, if it works, or the stand-in."""
    if compiled is None or compiled.loader is None:
        return Extension()
    try:
        module = module_from_spec(compiled)
        compiled.loader.exec_module(module)
        found = fault(module)
    except Exception as error:  # undefined symbols, missing libraries
        found = first_line(error)
    if found is None:
        return module
    warnings.warn(
        f"mmcv's compiled operators do not work with torch {torch.__version__} ({found}); those of backbones are used.",
        stacklevel=2,
    )
    return Extension()


def _users(module: ModuleType) -> list[ModuleType]:
    """The modules of mmcv that call an extension module."""
    named = [(name, user) for name, user in sys.modules.items() if name.startswith("mmcv.ops.")]
    return [user for _, user in named if getattr(user, "ext_module", None) is module]


def replace(module: ModuleType, by: ModuleType) -> None:
    """Let what mmcv has imported so far, and will import, call another extension module."""
    for user in _users(module):
        user.ext_module = by
    sys.modules[NAME] = by


@contextmanager
def using(extension: ModuleType) -> Iterator[None]:
    """Within the context mmcv's operators are those of an extension module."""
    import mmcv.ops  # noqa: F401

    before = sys.modules[NAME]
    replace(before, extension)
    try:
        yield
    finally:
        replace(extension, before)
