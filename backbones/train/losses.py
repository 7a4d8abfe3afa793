"""The training loss: labels (plain, smoothed or mixed), auxiliary heads and distillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.task import DistillationTeacher
from torch import nn

from backbones.train.options import TrainOptions


def build_mixup(options: TrainOptions, num_classes: int) -> Mixup | None:
    """timm's Mixup/CutMix from the options, or None when neither is on."""
    if not options.mixes:
        return None
    return Mixup(
        mixup_alpha=options.mixup,
        cutmix_alpha=options.cutmix,
        cutmix_minmax=options.cutmix_minmax,
        prob=options.mixup_prob,
        switch_prob=options.mixup_switch_prob,
        mode=options.mixup_mode,
        label_smoothing=options.smoothing,
        num_classes=num_classes,
    )


def build_criterion(options: TrainOptions, mixed: bool) -> nn.Module:
    """timm's loss for the options; mixed targets are soft and carry their smoothing already."""
    if options.bce_loss:
        return BinaryCrossEntropy(
            smoothing=0.0 if mixed else options.smoothing,
            target_threshold=options.bce_target_thresh,
            sum_classes=options.bce_sum,
        )
    if mixed:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(options.smoothing) if options.smoothing else nn.CrossEntropyLoss()


class TrainingLoss(nn.Module):
    """Loss of a model's output, with auxiliary heads and a teacher.

    Args:
        criterion: Loss of logits (B, classes) and targets.
        aux_weight: Weight of each further output when the model returns (main, aux, …) in training.
        teacher: Teaches by its logits (Hinton et al., arXiv:1503.02531), or None.
        mean: Pixel mean (C,) that the student's images were normalised with.
        std: Their standard deviation (C,).
        temperature: Softmax temperature of distillation.
        task_weight: Weight of the label loss. Given without ``distill_weight``, distillation weighs the rest to 1.
        distill_weight: Weight of the distillation loss; both weigh 1 when neither is given.
    """

    def __init__(
        self,
        criterion: nn.Module,
        aux_weight: float = 0.4,
        teacher: DistillationTeacher | None = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        temperature: float = 1.0,
        task_weight: float | None = None,
        distill_weight: float | None = None,
    ) -> None:
        super().__init__()
        self.criterion, self.aux_weight, self.teacher, self.temperature = criterion, aux_weight, teacher, temperature
        if distill_weight is None:
            distill_weight = 1.0 if task_weight is None else 1.0 - task_weight
        self.distill_weight = distill_weight
        self.task_weight = 1.0 if task_weight is None else task_weight
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(
        self, output: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss (scalar) and the main logits (B, classes)."""
        logits, *aux = output if isinstance(output, (tuple, list)) else (output,)
        logits = logits.float()
        loss = self.criterion(logits, target)
        for extra in aux:
            loss = loss + self.aux_weight * self.criterion(extra.float(), target)
        if self.teacher is None:
            return loss, logits
        with torch.no_grad():
            taught = self.teacher(self.teacher.normalize_input(images, self.mean, self.std)).float()
        divergence = F.kl_div(
            F.log_softmax(logits / self.temperature, dim=-1),
            F.log_softmax(taught / self.temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        loss = self.task_weight * loss + self.distill_weight * self.temperature**2 * divergence
        return loss, logits


def build_teacher(
    options: TrainOptions, num_classes: int, in_chans: int, device: torch.device
) -> DistillationTeacher | None:
    """The frozen teacher that ``--kd-model-name`` names, with published weights or those of a file."""
    if not options.kd_model_name:
        return None
    import timm

    overlay = None
    if options.kd_pretrained_path:
        overlay = {"file": options.kd_pretrained_path, "num_classes": num_classes}
    model = timm.create_model(
        options.kd_model_name,
        pretrained=True,
        num_classes=num_classes,
        in_chans=in_chans,
        pretrained_cfg_overlay=overlay,
        **options.kd_model_kwargs,
    )
    teacher = DistillationTeacher(model.to(device), device=device).requires_grad_(False)
    if teacher.mean_kd.shape[1] != in_chans:  # grey images are normalised by the mean over the colours
        teacher.mean_kd, teacher.std_kd = teacher.mean_kd.mean(1, keepdim=True), teacher.std_kd.mean(1, keepdim=True)
    return teacher
