"""Images as they are read: which errors broken files raise, orientation, bit depth, and finding image files."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

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
