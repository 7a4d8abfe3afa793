"""The training loss: labels (plain, smoothed or mixed), auxiliary heads, a model's own losses and distillation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import create_classification_loss
from timm.task import DistillationTeacher
from timm.task.distillation import FeatureDistillationTrainableModule
from torch import nn

from backbones.train.evaluation.models import ModelError, creating
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
    return create_classification_loss(
        "jsd" if options.jsd_loss else "bce" if options.bce_loss else "ce",
        jsd_splits=options.aug_splits,
        smoothing=options.smoothing,
        soft_targets=mixed,
        pos_weight=options.bce_pos_weight,
        bce_target_thresh=options.bce_target_thresh,
        bce_sum=options.bce_sum,
    )


class Distillation(nn.Module):
    """What a frozen teacher adds to the loss.

    - logit: divergence of the student's class probabilities from the teacher's (Hinton et al., arXiv:1503.02531).
    - feature: mean square difference of pooled features, the student's through a linear layer where widths differ.
    - token: divergence, or cross-entropy with the teacher's choice, of the logits of the student's distillation head
      (Touvron et al., arXiv:2012.12877).

    Beside the logits, vision transformers may be taught their last patch tokens, normed: by the mean square difference,
    of those that the student keeps.

    Args:
        teacher: The teacher.
        options: Kind, temperature, weights and the teacher's image size.
        mean: Pixel mean (C,) that the student's images were normalised with.
        std: Their standard deviation (C,).
    """

    def __init__(
        self, teacher: DistillationTeacher, options: TrainOptions, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.teacher, self.options, self._trainable = teacher, options, []
        share = options.task_loss_weight
        self.task_weight = 1.0 if share is None else share
        self.weight = options.distill_loss_weight
        if self.weight is None:  # alone, the weight of the labels leaves the rest to the teacher
            self.weight = 1.0 if share is None else 1.0 - share
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def trainable(self, student: nn.Module) -> nn.Module:
        """What is trained: the student, with a projection of its features where they are compared; made once.

        Raises:
            ModelError: When the student or the teacher lacks what the kind of distillation needs.
        """
        if not self._trainable:  # a list, so that the student does not become a part of its loss
            self._trainable.append(self._make_trainable(student))
        return self._trainable[0]

    def _make_trainable(self, student: nn.Module) -> nn.Module:
        options, kind = self.options, self.options.kd_distill_type
        if kind == "token":
            if not hasattr(student, "set_distilled_training"):
                raise ModelError(
                    f"--kd-distill-type token needs a model with a distillation head, such as deit_tiny_distilled_"
                    f"patch16_224; {options.model} has none."
                )
            student.set_distilled_training(True)
        if options.kd_patch_loss_weight:
            for name, model in ((options.kd_model_name, self.teacher.model), (options.model, student)):
                width = getattr(model, "num_features", None) if hasattr(model, "num_prefix_tokens") else None
                if width != student.num_features:
                    raise ModelError(
                        f"--kd-patch-loss-weight needs vision transformers of one width; {name} has "
                        f"{'no patch tokens' if width is None else f'{width} channels, not {student.num_features}'}."
                    )
            return _WithPatchTokens(student)
        if kind != "feature":
            return student
        widths = []
        for name, model in ((options.model, student), (options.kd_model_name, self.teacher.model)):
            widths.append(getattr(model, "head_hidden_size", None) or getattr(model, "num_features", None))
            if widths[-1] is None or not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
                raise ModelError(
                    f"--kd-distill-type feature needs models with features of timm's kind; {name} has none."
                )
        projection = nn.Linear(*widths) if widths[0] != widths[1] else None
        return FeatureDistillationTrainableModule(student, projection.to(self.mean.device) if projection else None)

    def forward(
        self,
        learned: torch.Tensor,
        images: torch.Tensor,
        patches: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The teacher's part of the loss, weighted.

        Args:
            learned: Logits (B, classes) or features (B, width) of the student.
            images: (B, C, H, W), normalised for the student.
            patches: Patch tokens (B, N, width) of the student, where these are taught.
            kept: (B, N), 1 for those that the student keeps, else 0.
        """
        options, features = self.options, self.options.kd_distill_type == "feature"
        with torch.no_grad():
            images = self.teacher.normalize_input(images, self.mean, self.std)
            side = options.kd_img_size
            if side is not None and images.shape[-2:] != (side, side):
                images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
            if patches is None:
                taught, tokens = self.teacher(images, return_features=features).float(), None
            else:
                taught, tokens, _ = (part.float() for part in _WithPatchTokens(self.teacher.model)(images))
        loss = self.weight * self._lesson(learned, taught)
        if tokens is None:
            return loss
        difference = (patches - tokens).square().mean(-1)
        return loss + options.kd_patch_loss_weight * (difference * kept).sum() / kept.sum()

    def _lesson(self, learned: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
        """What the kind of distillation makes of the student's logits or features, and the teacher's."""
        options = self.options
        if options.kd_distill_type == "feature":
            return F.mse_loss(learned, taught)
        if options.kd_distill_type == "token" and options.kd_token_distill_type == "hard":
            return F.cross_entropy(learned, taught.argmax(-1))
        temperature = options.kd_temperature
        divergence = F.kl_div(
            F.log_softmax(learned / temperature, dim=-1),
            F.log_softmax(taught / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return temperature**2 * divergence


class _WithPatchTokens(nn.Module):
    """A vision transformer that returns logits, its last patch tokens `(B, N, C)`, and which it keeps `(B, N)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kept = None
        if hasattr(self.model, "forward_kept"):
            tokens, kept = self.model.forward_kept(x)
        else:
            tokens = self.model.forward_features(x)
        kept = tokens.new_ones(tokens.shape[:2]) if kept is None else kept
        prefix = self.model.num_prefix_tokens
        return self.model.forward_head(tokens), tokens[:, prefix:], kept[:, prefix:]


class TrainingLoss(nn.Module):
    """Loss of a model's output, with auxiliary heads, the model's own losses and a teacher.

    In training a model may return (main, aux, …, loss, …): further logits, and scalars that it wants to be small, such
    as the load-balance loss of a router, weighted already. One that depends on the labels, such as that of a policy and
    its reward, is a function of the main logits and the targets.

    Args:
        criterion: Loss of logits (B, classes) and targets.
        aux_weight: Weight of each of the further logits.
        distillation: The teacher's part, or None.
    """

    def __init__(self, criterion: nn.Module, aux_weight: float = 0.4, distillation: Distillation | None = None) -> None:
        super().__init__()
        self.criterion, self.aux_weight, self.distillation = criterion, aux_weight, distillation

    def trainable(self, model: nn.Module) -> nn.Module:
        """What is trained for this loss: the model, or the model with a part that only training needs."""
        return model if self.distillation is None else self.distillation.trainable(model)

    def forward(
        self, output: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss (scalar) and the main logits (B, classes)."""
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        parts = [part.float() for part in outputs if isinstance(part, torch.Tensor)]
        logits, *others = (part for part in parts if part.ndim)
        own = [part for part in parts if not part.ndim]
        own += [part(logits, target) for part in outputs if not isinstance(part, torch.Tensor)]
        teaching = self.distillation
        learned, patches, kept = logits, None, None
        if teaching is not None and teaching.options.kd_patch_loss_weight:
            *others, patches, kept = others
        if teaching is not None and teaching.options.kd_distill_type != "logit":
            learned = others.pop()  # features, or the logits of the distillation head
        loss = self.criterion(logits, target)
        for extra in others:
            loss = loss + self.aux_weight * self.criterion(extra, target)
        if teaching is not None:
            loss = teaching.task_weight * loss + teaching(learned, images, patches, kept)
        return sum(own, loss), logits


def build_distillation(
    options: TrainOptions, config: Mapping[str, Any], num_classes: int, device: torch.device
) -> Distillation | None:
    """The frozen teacher that ``--kd-model-name`` names, with published weights or those of a file.

    Args:
        options: Resolved options.
        config: The student's preprocessing.
        num_classes: Classes of student and teacher.
        device: Where the teacher runs.

    Raises:
        ModelError: When the teacher cannot be built, or its weights are missing or do not fit.
    """
    if not options.kd_model_name:
        return None
    name, path, arguments = options.kd_model_name, options.kd_pretrained_path, options.kd_model_kwargs
    if path and not os.path.isfile(path):
        raise ModelError(f"--kd-pretrained-path {path} does not exist.")
    remedy = "give a file with --kd-pretrained-path"
    with creating(name, arguments, "--kd-model-kwargs", path or "published weights", remedy):
        model = timm.create_model(
            name,
            pretrained=True,
            num_classes=num_classes,
            in_chans=options.in_chans,
            pretrained_cfg_overlay={"file": path, "num_classes": num_classes} if path else None,
            **arguments,
        )
    published = (getattr(model, "pretrained_cfg", None) or {}).get("num_classes")
    if not path and published not in (None, num_classes):
        raise ModelError(
            f"The teacher {name} was published for {published} classes, not {num_classes}: give weights for these "
            "classes with --kd-pretrained-path."
        )
    teacher = DistillationTeacher(model.to(device), device=device).requires_grad_(False)
    if teacher.mean_kd.shape[1] != options.in_chans:  # grey images are normalised by the mean over the colours
        teacher.mean_kd, teacher.std_kd = teacher.mean_kd.mean(1, keepdim=True), teacher.std_kd.mean(1, keepdim=True)
    return Distillation(teacher, options, config["mean"], config["std"])
