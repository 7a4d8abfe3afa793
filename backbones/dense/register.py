"""Our nodes of mmengine's root registries: what is in them is named `backbones.<name>` in every config."""

from __future__ import annotations

from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_CONSTRUCTORS
from mmengine.registry import Registry

SCOPE = "backbones"

HOOKS = Registry("hook", parent=ROOT_HOOKS, scope=SCOPE)
MODELS = Registry("model", parent=ROOT_MODELS, scope=SCOPE)
OPTIM_WRAPPER_CONSTRUCTORS = Registry("optimizer wrapper constructor", parent=ROOT_CONSTRUCTORS, scope=SCOPE)
