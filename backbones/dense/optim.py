"""Optimiser rules of a detector or segmentor, from what its backbone says of itself."""

from __future__ import annotations

from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from backbones.dense.register import OPTIM_WRAPPER_CONSTRUCTORS
from backbones.features import DenseBackbone

_OPTIONS = ("layer_decay", "min_scale", "custom_keys")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Layer-wise learning-rate decay in the backbone, and no weight decay where it does harm.

    Layers are those of the model's `group_matcher`: the last one gets `layer_decay` times the learning rate, the one
    before it `layer_decay ** 2`, and so on down to the stem; output norms, neck and heads get all of it. Norms, biases
    and all else of one dimension, and what the model names in `no_weight_decay`, get no weight decay, in the whole
    network. NAT and DiNAT decay their tables of position bias on ImageNet, not in their detectors and segmentors: give
    `custom_keys=dict(rpb=dict(decay_mult=0.0))`.

    `paramwise_cfg` may hold

    - `layer_decay`: factor a layer; 1 (the default) leaves the rule of weight decay alone.
    - `min_scale`: least factor of the learning rate.
    - `custom_keys`: as in mmengine, parts of parameters' names to `dict(lr_mult=..., decay_mult=...)`, on top of the
      above; of several parts that fit, the longest counts.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor="backbones.LayerDecayOptimWrapperConstructor",
        ...     optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
        ...     paramwise_cfg=dict(layer_decay=0.9),
        ... )

    Raises:
        ValueError: Unknown option, optimizer without `lr` or `weight_decay`, or a model without a backbone of ours.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        # Not empty, since mmengine then passes all parameters by.
        super().__init__(optim_wrapper_cfg, {"layer_decay": 1.0, **(paramwise_cfg or {})})
        unknown = [key for key in self.paramwise_cfg if key not in _OPTIONS]
        if unknown:
            raise ValueError(f"paramwise_cfg has no option {', '.join(unknown)}: it takes {', '.join(_OPTIONS)}")
        if self.base_lr is None or self.base_wd is None:
            raise ValueError("give the optimizer lr and weight_decay: its groups are shares of them")

    def add_params(self, params: list[dict], module: nn.Module, **_: Any) -> None:
        """Append the groups of all trained parameters of `module`, the whole network, to `params`."""
        backbones = {name: m for name, m in module.named_modules() if isinstance(m, DenseBackbone)}
        if not backbones:
            raise ValueError('layer decay asks the backbone for its layers: use one of type "backbones.Backbone"')
        lr_scale: dict[int, float] = {}
        not_decayed: set[str] = set()
        for name, backbone in backbones.items():
            decay, trunk = self.paramwise_cfg["layer_decay"], backbone.trunk
            groups = param_groups_layer_decay(trunk, layer_decay=decay) if decay != 1 else []
            # timm gives the last layer all of the learning rate; here neck and heads come after it.
            lr_scale.update((id(p), group["lr_scale"] * decay) for group in groups for p in group["params"])
            listed = trunk.no_weight_decay() if hasattr(trunk, "no_weight_decay") else ()
            prefix = name + ("." if name else "") + ("model." if trunk is backbone.model else "model.model.")
            not_decayed.update(prefix + key for key in listed)
        wd_scale = {
            id(p): float(group["weight_decay"] > 0)
            for group in param_groups_weight_decay(module, weight_decay=1.0, no_weight_decay_list=not_decayed)
            for p in group["params"]
        }
        minimum = self.paramwise_cfg.get("min_scale", 0.0)
        merged: dict[tuple[float, float], dict] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            custom = self._custom(name)
            lr = self.base_lr * max(lr_scale.get(id(parameter), 1.0), minimum) * custom.get("lr_mult", 1.0)
            wd = self.base_wd * wd_scale[id(parameter)] * custom.get("decay_mult", 1.0)
            group = merged.setdefault((lr, wd), {"params": [], "lr": lr, "weight_decay": wd})
            group["params"].append(parameter)
        params.extend(merged[key] for key in sorted(merged))
        table = "".join(
            f"\n  lr {lr:.3g}, weight decay {wd:.3g}: {len(merged[lr, wd]['params'])}" for lr, wd in sorted(merged)
        )
        print_log(f"Parameters (tensors) by learning rate and weight decay:{table}", logger="current")

    def _custom(self, name: str) -> dict[str, float]:
        keys = self.paramwise_cfg.get("custom_keys", {})
        fitting = sorted((key for key in keys if key in name), key=lambda key: (-len(key), key))
        return keys[fitting[0]] if fitting else {}
