"""mmcv's operators from torchvision and PyTorch, where mmcv has no working compiled ones.

Importing this package puts them where mmcv's own modules look for the compiled ones: all of `mmcv.ops` works, forward
and backward, on every device of torchvision, with nothing to compile. Compiled operators that work are left alone.
An operator that is provided neither here nor by mmcv raises `OperatorsError` when it is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

import backbones_mmcv
from backbones.dense.ops.extension import Extension, OperatorsError, fault, replace

__all__ = ["Extension", "OperatorsError", "problem", "start"]

REMEDY = "run `pip install 'backbones[dense]'`, or `make setup-dense` in a clone"

backbones_mmcv.install()
_imported = sys.modules.get(backbones_mmcv.NAME)
if _imported is not None and fault(_imported):  # imported before anybody looked whether it works
    replace(_imported, Extension())


def problem() -> str | None:
    """Why detectors and segmentors cannot run, in one sentence with the remedy; None where they can."""
    for name in ("mmengine", "mmcv", "mmdet", "mmseg"):
        if importlib.util.find_spec(name) is None:
            return f"dense prediction needs {name}, which is not installed: {REMEDY}."
    return None


def start(tool: str) -> int:
    """Run a command line of this package, `<module>:<function>`, if OpenMMLab's are there; returns its exit code."""
    found = problem()
    if found:
        print(f"error: {found}", file=sys.stderr)
        return 2
    module, _, function = tool.partition(":")
    return getattr(importlib.import_module(f"backbones.dense.{module}"), function)()
