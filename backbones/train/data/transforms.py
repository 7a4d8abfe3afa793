"""What is done to an image before the model sees it: augmentation in training, one or several crops in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.auto_augment import AugmentOp
from torch import Tensor
from torchvision import transforms

from backbones.train.options import TrainOptions

#: Options that are arguments of :func:`timm.data.create_transform` by the same name, and those of another name.
_SAME = ("no_aug", "train_crop_mode", "scale", "ratio", "hflip", "vflip", "color_jitter", "color_jitter_prob")
_SAME += ("grayscale_prob", "gaussian_blur_prob")
_OTHER = {"auto_augment": "aa", "re_prob": "reprob", "re_mode": "remode", "re_count": "recount"}


def training_transform(options: TrainOptions, config: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    """timm's augmentation as the options say; ``--overfit`` sees what evaluation sees.

    Args:
        options: Resolved options.
        config: The model's preprocessing, as :func:`timm.data.resolve_data_config` gives it.
    """
    if options.overfit:
        return evaluation_transform(config)
    plain = options.no_aug or not options.train_interpolation
    whole = create_transform(
        config["input_size"],
        is_training=True,
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"] if plain else options.train_interpolation,
        separate=bool(options.aug_splits),
        **{name: getattr(options, name) for name in _SAME},
        **{name: getattr(options, ours) for name, ours in _OTHER.items()},
    )
    if options.train_crop_padding:
        crop = transforms.RandomCrop(config["input_size"][-2:], options.train_crop_padding, pad_if_needed=True)
        (whole[0] if options.aug_splits else whole).transforms[0] = crop  # timm's random resized crop comes first
    if options.aug_splits:
        return AugmentationSplits([guard_posterize(stage) for stage in whole], options.aug_splits)
    return guard_posterize(whole)


def evaluation_transform(config: Mapping[str, Any], crops: int = 1) -> Callable[[Any], Tensor]:
    """timm's preprocessing of a PIL image: (C, H, W), or (crops, C, H, W) with several crops.

    Args:
        config: As :func:`timm.data.resolve_data_config` gives it.
        crops: 1 for the centre, 5 for the corners and the centre, 10 for these and their mirror images.
    """
    whole = create_transform(**config, is_training=False)
    return whole if crops == 1 else SeveralCrops(whole.transforms, config["input_size"][-2:], mirrored=crops == 10)


class SeveralCrops:
    """Five crops of an image, the corners and the centre, in place of the one that timm's preprocessing cuts.

    Args:
        stages: That preprocessing, which cuts the centre at one of its stages.
        size: Height and width of a crop.
        mirrored: Add the mirror images.
    """

    def __init__(self, stages: Sequence[Callable], size: Sequence[int], mirrored: bool) -> None:
        place = next(i for i, stage in enumerate(stages) if isinstance(stage, transforms.CenterCrop))
        self.before, self.after = transforms.Compose(stages[:place]), transforms.Compose(stages[place + 1 :])
        self.size, self.cut = size, (transforms.TenCrop if mirrored else transforms.FiveCrop)(size)

    def __call__(self, image: Any) -> Tensor:
        """(crops, C, H, W) of a PIL image; one smaller than a crop is padded, as a centre crop pads it."""
        image = self.before(image)
        least = [max(pair) for pair in zip(self.size, reversed(image.size))]
        return torch.stack([self.after(crop) for crop in self.cut(transforms.CenterCrop(least)(image))])


class AugmentationSplits:
    """An image without strong augmentation, and several times with it (AugMix; Hendrycks et al., arXiv:1912.02781).

    Args:
        transforms: timm's three stages: crop and flip, shared by all; strong augmentation; conversion and erasing.
        count: Number of splits, the first of them without the second stage.
    """

    def __init__(self, transforms: Sequence[Callable], count: int) -> None:
        self.transforms, self.count = transforms, count

    def __call__(self, image: Any) -> Tensor:
        """(count, C, H, W) of a PIL image."""
        shared, strong, last = self.transforms
        image = shared(image)
        return torch.stack([last(image), *(last(strong(image)) for _ in range(self.count - 1))])


def posterize(image: Image.Image, bits_to_keep: int, **kwargs) -> Image.Image:
    """timm's posterize at every level: with no bits left the image is black, which Pillow 13 refuses to compute."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **kwargs)


def guard_posterize(transform):
    """The transform of :func:`timm.data.create_transform` with :func:`posterize` in its policies.

    At the highest levels of RandAugment and AutoAugment timm asks Pillow to keep 0 bits.
    """
    for step in getattr(transform, "transforms", ()):
        policies = [getattr(step, "ops", []), *getattr(step, "policy", [])]
        for operation in (op for policy in policies for op in policy):
            if isinstance(operation, AugmentOp) and operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = posterize
    return transform
