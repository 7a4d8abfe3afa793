"""Finds `mmcv._ext`: mmcv's compiled operators where they work, otherwise those of `backbones.dense.ops`.

A module of its own, because torch imports it each time that it is imported itself (entry point group
`torch.backends`), so that programs of mmdet and mmseg which never heard of `backbones` find operators, too. It must
cost nothing then, whereas importing `backbones` imports timm. `TORCH_DEVICE_BACKEND_AUTOLOAD=0` keeps torch from it;
`import backbones.dense` does the same.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

NAME = "mmcv._ext"


class ExtensionFinder(MetaPathFinder):
    """Answers for `mmcv._ext` alone."""

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if fullname != NAME:
            return None
        return ModuleSpec(fullname, _ExtensionLoader(PathFinder.find_spec(fullname, path)))


class _ExtensionLoader(Loader):
    def __init__(self, compiled: ModuleSpec | None) -> None:
        self.compiled = compiled

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        from backbones.dense.ops.extension import load

        return load(self.compiled)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do: `load` has run it."""


def install() -> None:
    """Let the finder answer first. Further calls change nothing."""
    if not any(isinstance(finder, ExtensionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, ExtensionFinder())
