"""The backbone that configs of mmdet and mmseg name: `dict(type="backbones.Backbone", model="overlock_t", ...)`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from mmengine.logging import print_log
from torch import nn

from backbones.checkpoints import WeightsError, identify, read_checkpoint
from backbones.checkpoints.convert import fitted_dense, tensors_of
from backbones.checkpoints.identification import describe
from backbones.checkpoints.report import record_loading
from backbones.dense.checkpoint import local_file
from backbones.dense.register import MODELS
from backbones.features import DenseBackbone

_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt")


@MODELS.register_module()
class Backbone(DenseBackbone):
    """A `DenseBackbone` in mmengine's way: starting weights are loaded by `init_weights`, which only training calls.

    Loading a state dict (mmengine's `load_from`, `resume`, `init_cfg` of a detector) also takes the authors' names, so
    that their detectors and segmentors load as published, and refuses the backbone of another model.

    Args:
        model: Name of a model of the zoo or of timm, with or without tag.
        pretrained: ImageNet weights to start from: True for those of the name, a tag of the model, a file of the
            authors' or ours (the classifier is dropped), or False.
        init_cfg: `dict(type="Pretrained", checkpoint=FILE_OR_ADDRESS)`, instead of `pretrained`: weights of a dense
            backbone, detector or segmentor (output norms included), or of a classifier. `prefix` names a part of them.
        **kwargs: Those of `DenseBackbone`.

    Raises:
        ValueError: As `DenseBackbone`, or `pretrained` and `init_cfg` that cannot be followed.
    """

    def __init__(
        self, model: str, *, pretrained: bool | str | None = False, init_cfg: dict | None = None, **kwargs: Any
    ) -> None:
        if init_cfg and pretrained:
            raise ValueError("give pretrained or init_cfg, not both: each names the weights to start from")
        if init_cfg and (init_cfg.get("type") != "Pretrained" or "checkpoint" not in init_cfg):
            raise ValueError(f'init_cfg must be dict(type="Pretrained", checkpoint=...), not {init_cfg!r}')
        if isinstance(pretrained, str) and not _is_file(pretrained):
            name, _, tag = model.partition(".")
            if tag not in ("", pretrained):
                raise ValueError(f"model {model!r} and pretrained {pretrained!r} name different weights: leave out one")
            model, pretrained = f"{name}.{pretrained}", True
        super().__init__(model, **kwargs)
        self.pretrained = pretrained
        self.init_cfg = init_cfg
        self.is_init = False
        self.register_load_state_dict_pre_hook(_take_authors_names)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # mmcv's RoIAlign reads memory as (B, C, H, W), whatever the strides say, and channels_last would reach it
        # through the neck's convolutions.
        return tuple(output.contiguous() for output in super().forward(x))

    def init_weights(self) -> None:
        """Load what `init_cfg` or `pretrained` names, once.

        Raises:
            WeightsError: It cannot be had or does not fit.
        """
        if self.is_init:
            return
        if self.init_cfg:
            self.load(self.init_cfg["checkpoint"], self.init_cfg.get("prefix"))
        elif isinstance(self.pretrained, str):
            self.load(self.pretrained)
        elif self.pretrained:
            self._adopt(self.create_model(pretrained=True))
            print_log(f"{self.name}: loaded the published ImageNet weights", logger="current")
        self.is_init = True

    def load(self, source: str | Path, prefix: str | None = None) -> None:
        """Load a checkpoint of a dense backbone, detector, segmentor or classifier, the authors' or ours.

        Args:
            source: File, or http(s) address of one, which is kept in the store of weights.
            prefix: Of the keys to load, where they are not at the top or below `backbone.`.

        Raises:
            WeightsError: It cannot be had or does not fit.
        """
        path = local_file(str(source))
        checkpoint = read_checkpoint(path)
        if prefix:
            checkpoint = _below(prefix, checkpoint, str(source))
        tensors = tensors_of(checkpoint, str(source))
        if self.is_dense_form(list(tensors)):
            self.load_state_dict(_fitted(tensors, self, str(source)))
            form = "a dense-prediction checkpoint: all weights, output norms included"
        else:
            self._adopt(self._from_classifier(tensors, str(source)))
            form = "an ImageNet classifier: all weights but the output norms, which start afresh"
        print_log(f"{self.name}: loaded {source}, {form}", logger="current")

    def _from_classifier(self, tensors: Mapping[str, torch.Tensor], source: str) -> nn.Module:
        """A model like ours with the weights of a classifier."""
        try:
            with record_loading() as reports:
                model = self.create_model(pretrained=True, state_dict=tensors)
            # timm's features forgive what is missing; the zoo's models have refused it by now.
            heads = timm.get_pretrained_cfg(self.name).classifier or ()
            # A classifier may have a norm beside it.
            heads = tuple(f"{head.split('.')[0]}." for head in ([heads] if isinstance(heads, str) else heads))
            missing = [key for key in reports[-1].missing if not key.startswith(heads) and "num_batches" not in key]
            if missing:
                raise RuntimeError(f"{len(missing)} keys missing, such as {missing[0]}")
            return model
        except WeightsError as error:
            raise WeightsError(str(error).replace("The given state dict", source)) from error
        except RuntimeError as error:
            raise _misfit(tensors, self, source, error) from error

    def _adopt(self, model: nn.Module) -> None:
        """Take the weights of another model like ours, but for what only the dense form has."""
        state = {key: value for key, value in model.state_dict().items() if not self.is_dense_only(key)}
        self.model.load_state_dict({**self.model.state_dict(), **state})


def _is_file(source: str) -> bool:
    return "/" in source or "\\" in source or source.endswith(_SUFFIXES) or Path(source).is_file()


def _below(prefix: str, checkpoint: Mapping[str, Any], source: str) -> dict[str, Any]:
    prefix = prefix.removesuffix(".") + "."
    state = next((checkpoint[key] for key in ("state_dict", "model") if key in checkpoint), checkpoint)
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found:
        raise WeightsError(f"{source} has no weights below {prefix!r}: correct init_cfg's prefix.")
    return found


def _fitted(tensors: Mapping[str, torch.Tensor], backbone: Backbone, source: str) -> dict[str, torch.Tensor]:
    own = backbone.state_dict()
    if backbone.family is not None:
        counters = {key: value for key, value in own.items() if key.endswith(".num_batches_tracked")}
        return {**counters, **fitted_dense(tensors, backbone, source)}
    if tensors.keys() != own.keys() or any(tensors[key].shape != own[key].shape for key in own):
        raise _misfit(tensors, backbone, source, "names or shapes differ")
    return dict(tensors)


def _misfit(tensors: Mapping[str, torch.Tensor], backbone: Backbone, source: str, reason: object) -> WeightsError:
    """The error for a timm model; those of the zoo have their own in the store of weights."""
    found = identify(tensors, source)
    likely = f"this looks like {describe(found)}" if found else "it looks like no model of the zoo"
    return WeightsError(f"{source} does not fit {backbone.name} ({' '.join(str(reason).split())[:200]}); {likely}.")


def _take_authors_names(backbone: Backbone, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state dict is loaded, by torch or by mmengine: put the backbone's part of it under our names."""
    given = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    own = backbone.state_dict()
    if not given or (given.keys() == own.keys() and all(given[key].shape == own[key].shape for key in own)):
        return
    state = _fitted(given, backbone, "The checkpoint")
    for key in given:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in state.items()})
