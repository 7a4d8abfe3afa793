"""Images as the loaders take them: orientation and bit depth on reading, and timm's augmentation with any Pillow."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from timm.data import auto_augment
from timm.data.auto_augment import AugmentOp

#: What broken image files raise in PIL's decoders. ``OSError`` covers unidentified and truncated images,
#: ``RuntimeError`` what AVIF's decoder says; the others come from damaged tables and EXIF tags.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, TypeError, LookupError, ArithmeticError)
UNREADABLE += (struct.error, zlib.error, Image.DecompressionBombError)


def convert_image(image: Image.Image, mode: str, exif_transpose: bool = False) -> Image.Image:
    """An image as it was read, in the mode that the model takes.

    Pillow clips 16-bit greyscale at 255, which turns it white; here its range is mapped to 8 bits.

    Args:
        image: Any image that Pillow opens.
        mode: "L", "RGB" or "RGBA".
        exif_transpose: Turn it upright by its EXIF orientation. timm's readers do not.

    Raises:
        ValueError: For 32-bit pixels beyond 16 bits and for floating point, whose range no file states.
    """
    if exif_transpose:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"the range of its {image.mode}-mode pixels is unknown: store it with 8 or 16 bits")
        image = Image.fromarray((pixels / 257).round().astype("uint8"))
    return image.convert(mode)


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
