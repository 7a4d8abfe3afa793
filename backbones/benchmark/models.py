"""Models as subjects: one forward pass, or one training step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import is_model_in_modules
from timm.utils.model import reparameterize_model
from torch import nn

from backbones.features import checked_name
from backbones.utils.profiling import count_macs, count_parameters, count_traffic

TASKS = ("inference", "training")
PRECISIONS = ("float32", "bfloat16", "float16", "amp_bfloat16", "amp_float16")


@dataclass(frozen=True)
class Setting:
    """How a model is run.

    Attributes:
        size: Height and width in pixels.
        batch: Images at once.
        task: "inference" or "training" (forward, backward and a step of SGD with momentum).
        precision: A dtype of weights and images, or with "amp_" before it one of autocast.
        compiled: Through `torch.compile`.
        channels_last: Memory format of weights and images.
        merged: Merge re-parameterisable kernels; inference only.
    """

    size: tuple[int, int] = (224, 224)
    batch: int = 1
    task: str = "inference"
    precision: str = "float32"
    compiled: bool = False
    channels_last: bool = False
    merged: bool = True

    def describe(self) -> dict[str, Any]:
        """Columns of a result."""
        return {
            "task": self.task,
            "size": "x".join(map(str, self.size)),
            "batch": self.batch,
            "precision": self.precision,
            "mode": "compiled" if self.compiled else "eager",
            "layout": "channels_last" if self.channels_last else "contiguous",
        }


class ModelSubject:
    """A model of the zoo or of timm in a setting; calling it does one step.

    Args:
        name: The model.
        setting: How it is run.
        device: Where.
        model_args: Further arguments of the model.

    Raises:
        ValueError: There is no such model.
    """

    def __init__(
        self, name: str, setting: Setting, device: torch.device, model_args: dict[str, Any] | None = None
    ) -> None:
        self.name, self.setting, self.device = checked_name(name), setting, device
        torch.manual_seed(0)
        model = timm.create_model(name, **_sized(name, setting.size), **(model_args or {}))
        self.params = count_parameters(model)
        self._plain = model
        if setting.task == "inference" and setting.merged:
            model = reparameterize_model(model)
        autocast = setting.precision.startswith("amp_")
        dtype = getattr(torch, setting.precision.removeprefix("amp_"))
        layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        weights = torch.float32 if autocast else dtype
        model = model.to(device, weights).to(memory_format=layout)
        images = torch.randn(setting.batch, 3, *setting.size, device=device, dtype=weights)
        self.images = images.contiguous(memory_format=layout)
        self.autocast: Callable[[], Any] = (
            (lambda: torch.autocast(device.type, dtype)) if autocast else contextlib.nullcontext
        )
        if setting.task == "training":
            self.model = model.train()
            self.target = torch.randint(model.num_classes, (setting.batch,), device=device)
            self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
            self.step = self._train
        else:
            self.model = model.eval()
            self.step = self._infer
        if setting.compiled:
            self.model = torch.compile(self.model)

    def __call__(self) -> None:
        self.step()

    def _infer(self) -> None:
        with torch.inference_mode(), self.autocast():
            self.model(self.images)

    def _train(self) -> None:
        with self.autocast():
            loss = nn.functional.cross_entropy(self.model(self.images).float(), self.target)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def costs(self) -> tuple[int, int]:
        """Multiply-adds and bytes of memory traffic of one image's forward pass; see `backbones.utils.profiling`."""
        shape = (3, *self.setting.size)
        model = self._plain.eval()
        return count_macs(model, shape), count_traffic(model, shape)


def _sized(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """`img_size` for models of timm that are built for one size."""
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.fixed_input_size or tuple(cfg.input_size[1:]) == size:
        return {}
    return {} if is_model_in_modules(name.partition(".")[0], ["backbones"]) else {"img_size": size}
