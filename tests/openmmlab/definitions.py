"""Operators of detectors as their papers define them: one result at a time, in double precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """The map `(C, H, W)` between its pixels, `(C,)`; zero beyond its borders."""
    total = image.new_zeros(len(image))
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                total = total + (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return total


def overlap(a: Tensor, b: Tensor, offset: int = 0) -> float:
    """Intersection over union of two boxes."""
    (ax, ay, au, av), (bx, by, bu, bv) = a[:4].tolist(), b[:4].tolist()
    both = max(min(au, bu) - max(ax, bx) + offset, 0) * max(min(av, bv) - max(ay, by) + offset, 0)
    return both / ((au - ax + offset) * (av - ay + offset) + (bu - bx + offset) * (bv - by + offset) - both)


def nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int = 0) -> list[int]:
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


def soft_nms(boxes: Tensor, scores: Tensor, threshold: float, sigma: float, least: float, method: str) -> dict:
    """Lowered scores by index, in the order in which boxes are taken."""
    left = dict(enumerate(scores.tolist()))
    kept = {}
    while left:
        best = max(left, key=left.get)
        kept[best] = left.pop(best)
        for i in list(left):
            value = overlap(boxes[best], boxes[i])
            if method == "gaussian":
                left[i] *= math.exp(-(value**2) / sigma)
            elif value >= threshold:
                left[i] *= 1 - value if method == "linear" else 0
            if left[i] < least:
                del left[i]
    return kept


def roi_align(x: Tensor, rois: Tensor, size: tuple, scale: float, ratio: int, mode: str, aligned: bool) -> Tensor:
    """Samples up to one pixel beyond the border take the border's value, those farther out are zero."""

    def sample(image: Tensor, at_y: float, at_x: float) -> Tensor:
        height, width = image.shape[1:]
        if not (-1 <= at_y <= height and -1 <= at_x <= width):
            return image.new_zeros(len(image))
        return bilinear(image, min(max(at_y, 0), height - 1), min(max(at_x, 0), width - 1))

    shift = 0.5 if aligned else 0.0
    out = x.new_zeros(len(rois), x.shape[1], *size)
    for n, (image, *corners) in enumerate(rois.tolist()):
        left, top, right, bottom = (corner * scale - shift for corner in corners)
        sides = [bottom - top, right - left] if aligned else [max(bottom - top, 1), max(right - left, 1)]
        bins = [side / count for side, count in zip(sides, size)]
        rows, columns = (ratio if ratio > 0 else math.ceil(side) for side in bins)
        for i in range(size[0]):
            for j in range(size[1]):
                values = [
                    sample(
                        x[int(image)],
                        top + (i + (r + 0.5) / rows) * bins[0],
                        left + (j + (c + 0.5) / columns) * bins[1],
                    )
                    for r in range(rows)
                    for c in range(columns)
                ]
                if values:
                    stacked = torch.stack(values)
                    out[n, :, i, j] = stacked.mean(0) if mode == "avg" else stacked.amax(0)
    return out


def roi_pool(x: Tensor, rois: Tensor, size: tuple, scale: float) -> Tensor:
    out = x.new_zeros(len(rois), x.shape[1], *size)
    for n, (image, left, top, right, bottom) in enumerate(rois.tolist()):
        low, high = (top * scale, left * scale), ((bottom + 1) * scale, (right + 1) * scale)
        for i in range(size[0]):
            for j in range(size[1]):
                ranges = []
                for k, count, limit in ((0, i, x.shape[2]), (1, j, x.shape[3])):
                    step = (high[k] - low[k]) / size[k]
                    start, end = math.floor(low[k] + count * step), math.ceil(low[k] + (count + 1) * step)
                    ranges.append(slice(min(max(start, 0), limit), min(max(end, 0), limit)))
                pixels = x[int(image)][:, ranges[0], ranges[1]].flatten(1)
                if pixels.shape[1]:
                    out[n, :, i, j] = pixels.amax(1)
    return out


def deform_conv2d(
    x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, groups: int, points: int
) -> Tensor:
    """Of stride, padding and dilation 2; `points` are the groups of channels with offsets of their own."""
    height, width = offset.shape[2:]
    filters, depth, kh, kw = weight.shape
    out = x.new_zeros(len(x), filters, height, width)
    share = x.shape[1] // points
    for b in range(len(x)):
        for i in range(height):
            for j in range(width):
                taps = x.new_zeros(x.shape[1], kh * kw)
                for g in range(points):
                    for tap in range(kh * kw):
                        dy, dx = offset[b, 2 * (g * kh * kw + tap) : 2 * (g * kh * kw + tap) + 2, i, j].tolist()
                        y, at = 2 * i - 2 + 2 * (tap // kw) + dy, 2 * j - 2 + 2 * (tap % kw) + dx
                        value = bilinear(x[b, g * share : (g + 1) * share], y, at)
                        taps[g * share : (g + 1) * share, tap] = (
                            value if mask is None else value * mask[b, g * kh * kw + tap, i, j]
                        )
                taps = taps.view(groups, depth * kh * kw)
                out[b, :, i, j] = torch.einsum("gfk,gk->gf", weight.view(groups, -1, depth * kh * kw), taps).flatten()
    return out if bias is None else out + bias[:, None, None]


def deformable_attention(value: Tensor, shapes: Tensor, starts: Tensor, at: Tensor, weights: Tensor) -> Tensor:
    batch, queries, heads, levels, points, _ = at.shape
    out = value.new_zeros(batch, queries, heads, value.shape[-1])
    for b, q, h, level, p in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads, levels, points))).tolist():
        (height, width), start = shapes[level].tolist(), int(starts[level])
        image = value[b, start : start + height * width, h].T.view(-1, height, width)
        x, y = at[b, q, h, level, p].tolist()
        out[b, q, h] += weights[b, q, h, level, p] * bilinear(image, y * height - 0.5, x * width - 0.5)
    return out.flatten(2)


def sigmoid_focal_loss(logits: Tensor, target: Tensor, factors: Tensor, gamma: float, alpha: float) -> Tensor:
    out = torch.zeros_like(logits)
    for n, label in enumerate(target.tolist()):
        for c, logit in enumerate(logits[n].tolist()):
            p = 1 / (1 + math.exp(-logit))
            right, balance = (p, alpha) if c == label else (1 - p, 1 - alpha)
            out[n, c] = -balance * (1 - right) ** gamma * math.log(right) * factors[label]
    return out


def softmax_focal_loss(logits: Tensor, target: Tensor, factors: Tensor, gamma: float, alpha: float) -> Tensor:
    right = logits.softmax(1)[range(len(target)), target]
    return -(alpha * (1 - right) ** gamma * right.log() * factors[target]).sum()


def carafe(x: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    batch, channels, height, width = x.shape
    out = x.new_zeros(batch, channels, height * scale, width * scale)
    for b, c, i, j in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        first = c // (channels // groups) * kernel**2
        for tap in range(kernel**2):
            y, at = i // scale + tap // kernel - kernel // 2, j // scale + tap % kernel - kernel // 2
            if 0 <= y < height and 0 <= at < width:
                out[b, c, i, j] += masks[b, first + tap, i, j] * x[b, c, y, at]
    return out


def masked_conv2d(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.conv2d(x, weight, bias, padding=1) * mask


def psa_mask(x: Tensor, kind: str, size: tuple[int, int]) -> Tensor:
    batch, _, height, width = x.shape
    out = x.new_zeros(batch, height * width, height, width)
    for i, j, y, at in torch.cartesian_prod(*map(torch.arange, (height, width, height, width))).tolist():
        row, column = y - i + size[0] // 2, at - j + size[1] // 2
        if 0 <= row < size[0] and 0 <= column < size[1]:
            entry = x[:, row * size[1] + column, i, j]
            if kind == "collect":
                out[:, y * width + at, i, j] = entry
            else:
                out[:, i * width + j, y, at] = entry
    return out
