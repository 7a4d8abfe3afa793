"""SimMIM: pre-training by predicting the pixels of masked patches (Xie et al., CVPR 2022, arXiv 2111.09886)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from backbones.models.skeleton import HierarchicalModel

TARGET_WINDOW = 47  # pixels of the neighbourhood that the target is standardised over, in the published Swin V2 models


class SimMIM(nn.Module):
    """A model without its head, with a token in the place of masked patches and a linear decoder of pixels.

    Args:
        encoder: The model to train.
        target_window: Side, odd, of the neighbourhood over which the target is standardised; 0 for the image as it is.

    Maps images `(B, in_chans, H, W)`, H and W multiples of the encoder's stride, and a mask `(B, H / 4, W / 4)`, 1 for
    a masked patch, to the loss, a scalar: the mean absolute error of the masked pixels.
    """

    def __init__(self, encoder: HierarchicalModel, target_window: int = TARGET_WINDOW, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        encoder.reset_classifier(0, "")
        self.encoder = encoder
        self.target_window = target_window
        first, last = encoder.feature_info[0], encoder.feature_info[-1]
        self.patch_size, self.stride = first["reduction"], last["reduction"]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, first["num_chs"], **dd))
        self.decoder = nn.Conv2d(last["num_chs"], encoder.in_chans * self.stride**2, 1, **dd)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def encode(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The last map, `(B, C, H / stride, W / stride)`, normed, of images whose masked patches are hidden."""
        x = self.encoder.stem(x.contiguous(memory_format=torch.channels_last))
        x = torch.lerp(x, self.mask_token[0, 0, :, None, None].to(x.dtype), mask[:, None].to(x.dtype))
        for stage in self.encoder.stages:
            x = stage.norm(stage(x))
        return self.encoder.norm(x)

    def reconstruct(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """All pixels as predicted, `(B, in_chans, H, W)`."""
        return F.pixel_shuffle(self.decoder(self.encode(x, mask)), self.stride)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        target = standardised(x, self.target_window) if self.target_window else x
        masked = mask.repeat_interleave(self.patch_size, 1).repeat_interleave(self.patch_size, 2)[:, None].to(x.dtype)
        error = (target - self.reconstruct(x, mask)).abs() * masked
        return error.sum() / (masked.sum() + 1e-5) / x.shape[1]


def standardised(x: torch.Tensor, window: int) -> torch.Tensor:
    """`(B, C, H, W)` less the mean, over the standard deviation, of each pixel's neighbourhood in its channel.

    Args:
        x: Images.
        window: Side of the neighbourhood, odd; at the border only the pixels inside of the image count.
    """

    def mean(values: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(values, window, stride=1, padding=window // 2, count_include_pad=False)

    average = mean(x)
    count = window**2 * F.avg_pool2d(torch.ones_like(x[:1, :1]), window, stride=1, padding=window // 2)
    variance = (mean(x.square()) - average.square()) * (count / (count - 1))
    return (x - average) / (variance.clamp(min=0) + 1e-6).sqrt()


def random_masks(
    batch: int, height: int, width: int, cell: int = 32, ratio: float = 0.6, patch: int = 4, device=None
) -> torch.Tensor:
    """`(batch, height / patch, width / patch)` masks that hide `ceil(ratio * cells)` random cells of every image.

    Args:
        batch: Images.
        height, width: Of the images, pixels; multiples of `cell`.
        cell: Side of a masked cell, pixels.
        ratio: Share of the cells to mask.
        patch: Side of a patch, pixels.
        device: Where to make them.
    """
    rows, columns = height // cell, width // cell
    count = math.ceil(ratio * rows * columns)
    order = torch.rand(batch, rows * columns, device=device).argsort(1)
    mask = (order < count).float().reshape(batch, rows, columns)
    return mask.repeat_interleave(cell // patch, 1).repeat_interleave(cell // patch, 2)
