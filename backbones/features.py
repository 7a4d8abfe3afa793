"""Multi-scale features of any model, in the form that detectors and segmentors take. Needs torch and timm only.

`backbones.dense` makes of it what OpenMMLab's configs name. It lies outside of that package because the store of
weights knows it too, and must work where OpenMMLab's packages are absent or broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import DropPath
from torch import nn

from backbones.layers.norm import LayerNorm2d
from backbones.models import family_of
from backbones.models.registry import DenseForm, Family
from backbones.utils.text import either, nearest

LEVELS = 4  # returned by default: strides 4 to 32 of a pyramid
OUT_NORMS = {"layer": LayerNorm2d, "batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 1)}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class DenseBackbone(nn.Module):
    """Feature maps of a model at several strides, each optionally through an output norm of its own.

    Models of the zoo are run in the form of their published detectors (see `Family.dense` and `forward_dense`);
    any other timm model through timm's `features_only`, always as `(B, C, H, W)`.

    Args:
        model: Name of a model of the zoo or of timm, with or without tag.
        out_indices: Stages to return, ascending; for a timm model, indices of its `feature_info`. By default the last
            four, or of isotropic models of the zoo, whose every block is a stage, four at equal distances.
        out_norm: Norm of its own on every returned map: "layer", "batch", "group" (all channels in one group), None
            for none, or "published", that of the authors' detectors ("layer" for models outside of the zoo). Maps that
            a norm of the model itself hands on between stages (VAN) get no second LayerNorm.
        pretrained: Load the tag's published ImageNet weights; `backbones.checkpoints.load_into` loads dense files.
        in_chans: Image channels.
        drop_path_rate: Stochastic depth of the last block; the model's default if None.
        drop_values: Drop single values of residual branches where stochastic depth drops whole branches.
        grad_checkpointing: Recompute activations in the backward pass.
        frozen_stages: Freeze the stem (0) and that many stages (1, ...): no gradients, always in evaluation mode.
            Output norms are trained, as no ImageNet file holds them. -1 freezes nothing.
        norm_eval: Keep every BatchNorm in evaluation mode, so that its statistics stay; its weights are trained.
        **model_args: Further arguments of the model (`dilations`, `n_win`, `window_size`, ...). Those of the authors'
            dense models are the default where they differ from the classifiers' (`DenseForm.args`).

    Maps `(B, in_chans, H, W)` to a tuple of `(B, C_i, H / r_i, W / r_i)`; `channels` and `reductions` describe them.

    Raises:
        ValueError: Unknown model or argument of it, or `out_indices`, `out_norm` or `frozen_stages` out of range.
    """

    def __init__(
        self,
        model: str,
        out_indices: Sequence[int] | None = None,
        out_norm: str | None = "published",
        pretrained: bool = False,
        in_chans: int = 3,
        drop_path_rate: float | None = None,
        drop_values: bool = False,
        grad_checkpointing: bool = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        device=None,
        dtype=None,
        **model_args: Any,
    ) -> None:
        super().__init__()
        if out_norm not in ("published", *OUT_NORMS, None):
            raise ValueError(f'out_norm must be "published", "layer", "batch", "group" or None, not {out_norm!r}')
        self.name = checked_name(model)
        self.family = _family(self.name)
        self._ours = self.family is not None and not self.family.built_by_timm
        form = self._form
        if out_norm == "published":
            out_norm = form.norm
        dd = {key: value for key, value in (("device", device), ("dtype", dtype)) if value is not None}
        optional = {} if drop_path_rate is None else {"drop_path_rate": drop_path_rate}
        self._args = {**form.args, "in_chans": in_chans, **optional, **model_args, **dd}
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self.out_indices = out_indices
        self.model = self.create_model(pretrained)
        if drop_values:
            _drop_values(self.trunk)
        info = self._info()
        self.channels = [info[i]["num_chs"] for i in self.out_indices]
        self.reductions = [info[i]["reduction"] for i in self.out_indices]
        if grad_checkpointing:
            if not hasattr(self.trunk, "set_grad_checkpointing"):
                raise ValueError(f"{self.name} has no gradient checkpointing: leave out grad_checkpointing")
            self.trunk.set_grad_checkpointing()
        last = self.out_indices[-1]
        trunk_norms = self.model.trunk_norms if self._ours else ()
        normed = _normed_stages(self.model) if self._ours else set()
        for i in normed:
            self.model.stages[i].norm.eps = form.eps
        self.out_norms = nn.ModuleList(
            OUT_NORMS[out_norm](info[i]["num_chs"], eps=form.eps, **dd)
            if out_norm
            and (i in self.out_indices or (i in trunk_norms and i < last))
            and not (out_norm == "layer" and i in normed)
            else nn.Identity()
            for i in range(last + 1)
        )
        for module in self._frozen_modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        self.train()

    def create_model(self, pretrained: bool = False, **overlay: Any) -> nn.Module:
        """A new model like `self.model`, without head and what comes after the last output.

        Args:
            pretrained: Load the published weights.
            **overlay: With `pretrained`, changes of timm's `pretrained_cfg` (`file`, `state_dict`).

        Raises:
            ValueError: It does not take the arguments.
        """
        args = dict(self._args)
        if overlay:
            if self.family and not self._ours and "state_dict" in overlay:  # timm knows its own names only
                overlay["state_dict"] = self.family.rename(overlay["state_dict"])
            args["pretrained_cfg_overlay"] = overlay
        if self._ours:
            model = _build(self.name, pretrained, num_classes=0, **args)
            self._check_ranges(len(model.feature_info), model.default_indices)
            prune_norm = self.out_indices[-1] not in _normed_stages(model)
            model.prune_intermediate_layers(list(self.out_indices), prune_norm=prune_norm)
            return model
        levels, has_getter = _probe(self.name)
        self._check_ranges(levels, range(max(levels - LEVELS, 0), levels))
        # The getter keeps the model whole, with its groups for layer decay; half of timm's models have it.
        getter = {"feature_cls": "getter"} if has_getter else {}
        return _build(self.name, pretrained, features_only=True, out_indices=self.out_indices, **getter, **args)

    def _check_ranges(self, levels: int, default: Sequence[int]) -> None:
        self.levels = levels
        given = default if self.out_indices is None else self.out_indices
        given = (given,) if isinstance(given, int) else tuple(given)
        if not given or list(given) != sorted(set(given) & set(range(levels))):
            raise ValueError(f"out_indices {given} of {self.name} must be ascending, from 0 to {levels - 1}")
        self.out_indices = given
        if self.frozen_stages not in range(-1, levels + 1):
            raise ValueError(f"frozen_stages of {self.name} must be from -1 to {levels}, not {self.frozen_stages!r}")

    @property
    def _form(self) -> DenseForm:
        return self.family.dense if self.family else DenseForm()

    @property
    def trunk(self) -> nn.Module:
        """The model itself, out of timm's wrapper of features where that keeps it whole."""
        return self.model if self._ours else getattr(self.model, "model", self.model)

    @property
    def _prefix(self) -> str:
        """Of the trunk's keys."""
        return "model." if self.trunk is self.model else "model.model."

    def _info(self) -> list[dict[str, Any]]:
        """Channels, stride and module of every feature map that the whole model has."""
        info = self.model.feature_info
        return info if isinstance(info, list) else info.info

    def _frozen_modules(self) -> Iterator[nn.Module]:
        """Modules of the stem and the first stages, in the order of registration, which is that of computation."""
        if self.frozen_stages < 0:
            return
        named = dict(self.trunk.named_modules())
        end = self._info()[min(max(self.frozen_stages - 1, 0), self.out_indices[-1])]["module"]
        end = end if end in named else end.replace(".", "_")  # timm's flattened names
        if end not in named:
            raise ValueError(f"frozen_stages does not work with {self.name}: its stages are not modules of their own")
        reached = False
        for name, module in named.items():
            inside = name == end or name.startswith(f"{end}.")
            reached = reached or inside
            if reached and (not inside or self.frozen_stages == 0):
                return
            if inside or not f"{end}.".startswith(f"{name}." if name else ""):
                yield module

    def train(self, mode: bool = True) -> DenseBackbone:
        """Set the mode, but keep what is frozen (and BatchNorm, where `norm_eval`) in evaluation mode."""
        super().train(mode)
        if mode:
            for module in self._frozen_modules():
                module.training = False
            for module in self.modules() if self.norm_eval else ():
                if isinstance(module, BATCH_NORMS):
                    module.training = False
        return self

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._ours:
            outputs = self.model.forward_dense(x, self.out_norms)
            return tuple(outputs[i] for i in self.out_indices)
        outputs = self.model(x)
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            outputs = [output.permute(0, 3, 1, 2) for output in outputs]
        return tuple(self.out_norms[i](output) for i, output in zip(self.out_indices, outputs))

    def is_dense_form(self, keys: Sequence[str]) -> bool:
        """Whether the keys are of a dense backbone (the authors' or ours) rather than of a classifier."""
        norms = self._form.keys
        return any(key.startswith(("model.", "out_norms.")) or bool(norms and re.match(norms, key)) for key in keys)

    def convert_checkpoint(self, checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The authors' dense checkpoint of this backbone (or our own) as a state dict of this module.

        What belongs to stages that are not returned is left out.
        """
        if self.family is None:
            return dict(checkpoint)
        own, converted, prefix = self.state_dict(), {}, self._prefix
        unprefixed = {key.removeprefix(prefix): value for key, value in checkpoint.items()}
        for key, value in self.family.convert_checkpoint(unprefixed, self.trunk).items():
            match = self._form.keys and re.match(self._form.keys, key)
            if match:
                key = f"out_norms.{match[1]}.{key[match.end() :]}"
            elif not key.startswith("out_norms."):
                key = f"{prefix}{key}"
            if key in own or not self._is_left_out(key):
                converted[key] = value
        return converted

    def _is_left_out(self, key: str) -> bool:
        """Whether a dense checkpoint's key belongs to an output, or a stage, that this backbone does not return."""
        last, key = self.out_indices[-1], key.removeprefix(self._prefix)
        match = re.match(r"(out_norms|stages)\.(\d+)\.", key)
        if match:
            return int(match[2]) > last or (match[1] == "out_norms" and int(match[2]) not in self.out_indices)
        if key in getattr(self.trunk, "pruned", ()):
            return True
        return last + 1 < self.levels and self.is_dense_only(key)

    def is_dense_only(self, key: str) -> bool:
        """Whether the parameter of the trunk belongs to `forward_dense` alone, so that no ImageNet file has it."""
        return bool(self._form.only and re.match(self._form.only, key))


def checked_name(name: str) -> str:
    """`name`, if it is a model of the zoo or of timm.

    Raises:
        ValueError: It is not; the message names models that are spelled alike.
    """
    if isinstance(name, str) and timm.is_model(name):
        return name
    alike = nearest(str(name).partition(".")[0], timm.list_models(), 4)
    hint = f"did you mean {either(alike)}?" if alike else "see backbones.list_models() and timm.list_models()"
    raise ValueError(f"there is no model {name!r}: {hint}")


def _family(name: str) -> Family | None:
    try:
        return family_of(name)
    except KeyError:
        return None


def _normed_stages(model: nn.Module) -> set[int]:
    """Stages of a model of the zoo that hand their map on through a norm of their own (`Stage.norm`)."""
    stages = enumerate(getattr(model, "stages", ()))
    return {i for i, stage in stages if not isinstance(getattr(stage, "norm", nn.Identity()), nn.Identity)}


def _drop_values(model: nn.Module) -> None:
    """Put plain dropout in the place of stochastic depth, at the same rates."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, DropPath):
                setattr(module, name, nn.Dropout(child.drop_prob))


def _build(name: str, pretrained: bool = False, **args: Any) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, **args)
    except TypeError as error:
        raise ValueError(f"cannot build {name}: {error}; check the backbone's arguments") from error


def _probe(name: str) -> tuple[int, bool]:
    """Number of feature maps of a timm model, and whether timm's feature getter works with it."""
    with torch.device("meta"):
        model = timm.create_model(name)
    info = getattr(model, "feature_info", None)
    if not info:
        raise ValueError(f"{name} gives no feature maps: choose another model")
    return len(info if isinstance(info, list) else info.info), hasattr(model, "forward_intermediates")
