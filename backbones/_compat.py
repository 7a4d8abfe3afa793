"""The one place that imports names which timm and torch do not export publicly."""

from __future__ import annotations

import torch
import torch.nn.modules.module as _module
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from timm.models._features import feature_take_indices
from timm.models._input import update_model_input_size
from timm.models._manipulate import MATCH_PREV_GROUP
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = [
    "MATCH_PREV_GROUP",
    "TorchDispatchMode",
    "deform_conv2d_backward",
    "feature_take_indices",
    "has_global_hooks",
    "is_non_strict_export",
    "is_plain_eager",
    "onednn_conv2d",
    "outside_of_modes",
    "roi_align_backward",
    "softmax_backward",
    "tree_leaves",
    "tree_map_only",
    "update_model_input_size",
]

# Inside, tensors are ordinary ones, whatever is being traced around it.
outside_of_modes = _disable_current_modes

# oneDNN's convolution with a fused activation, without gradient; None where this torch build has none.
onednn_conv2d = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)

# (gradient, softmax's output, dim, dtype of its input) -> gradient of the input, in one pass.
softmax_backward = torch._softmax_backward_data

# The backward passes of `torchvision.ops.deform_conv2d` and `roi_align`.
deform_conv2d_backward = torch.ops.torchvision._deform_conv2d_backward
roi_align_backward = torch.ops.torchvision._roi_align_backward


def is_plain_eager() -> bool:
    """True when tensors made now are ordinary: no compilation, export, trace or dispatch mode (fake tensors) is on."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or _get_current_dispatch_mode() is not None)


def has_global_hooks() -> bool:
    """Whether every module's calls are watched, as profilers and counters of operations do."""
    return bool(
        _module._global_forward_hooks
        or _module._global_forward_pre_hooks
        or _module._global_backward_hooks
        or _module._global_backward_pre_hooks
    )


def is_non_strict_export() -> bool:
    """True while torch.export runs a model's own Python with fake tensors (`strict=False`, the default)."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
