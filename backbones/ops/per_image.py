"""Depthwise convolution of every image by kernels of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from backbones._compat import is_plain_eager

# Values of an image's map from which a CPU is faster on one image after the other, none of which is copied.
ALONE = 1 << 16


def depthwise_per_image(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Depthwise convolution, "same" padding, by kernels that belong to an image.

    Args:
        x: `(B, C, H, W)`.
        weight: `(B, C, K, K)`, K odd.
        bias: `(B * C,)`.

    Returns:
        `(B, C, H, W)`.
    """
    batch, dim, height, width = x.shape
    kernel = weight.shape[-1]
    if bias is None and x.device.type == "cpu" and is_plain_eager() and batch > 1 and dim * height * width >= ALONE:
        images = zip(x.split(1), weight, strict=True)
        return torch.cat([F.conv2d(one, w[:, None], padding=kernel // 2, groups=dim) for one, w in images])
    # One plane after another: the images' channels become the channels of one large depthwise convolution.
    y = F.conv2d(
        x.reshape(1, batch * dim, height, width),
        weight.reshape(batch * dim, 1, kernel, kernel),
        bias,
        padding=kernel // 2,
        groups=batch * dim,
    )
    return y.view(batch, dim, height, width)
