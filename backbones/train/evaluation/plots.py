"""Pictures of a run: training curves, confusion matrix and contact sheet of predictions.

Every function draws on a figure of its own (no global pyplot state, no display) and writes a PNG that appears whole or
not at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps

from backbones.utils.figures import BLUE, GREEN, GRID, INK, MUTED, ORANGE, PURPLE, RED, save_figure, style_axes

# From white through the blue of the curves to near black: monotone in lightness, so it survives greyscale printing.
_HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", "#c9dcef", "#5b93c9", "#1c4f8a", "#0a2342"])
_ANNOTATED_CLASSES = 30  # up to here every cell shows its count
_NAMED_CLASSES = 60  # up to here every class has a named tick
_MAX_CELLS = 250  # above this neighbouring classes share a cell, or a confusion would be a single pixel
_TICK_WIDTH = 20  # characters of a class name at a tick


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """A column as floats; cells that are empty, missing or no numbers become NaN and leave a gap in the curve."""
    values = []
    for row in rows:
        try:
            values.append(float(row.get(key)))
        except (TypeError, ValueError):
            values.append(math.nan)
    return np.array(values)


#: Column: panel, label and colour, in drawing order.
_LINES = {
    "train_loss": ("Loss", "train", BLUE),
    "eval_loss": ("Loss", "validation", ORANGE),
    "eval_ema_loss": ("Loss", "validation, EMA", PURPLE),
    "train_top1": ("Accuracy (%)", "train top-1", BLUE),
    "eval_top5": ("Accuracy (%)", "top-5", GREEN),
    "eval_top1": ("Accuracy (%)", "top-1", ORANGE),
    "eval_ema_top1": ("Accuracy (%)", "top-1, EMA", PURPLE),
    "lr": ("Learning rate", "lr", MUTED),
    "train_img_per_s": ("Images per second", "train", BLUE),
    "eval_img_per_s": ("Images per second", "validation", ORANGE),
}
#: Panels with a best value, and how it is found.
_BEST = {"Loss": np.nanargmin, "Accuracy (%)": np.nanargmax}


def plot_curves(rows: Sequence[Mapping[str, Any]], path: str | Path, title: str = "") -> Path:
    """Draw the curves of a run: one panel each for loss, accuracy, learning rate and speed, where `rows` have them.

    Args:
        rows: One mapping an epoch, as `summary.csv` holds them, accuracies in percent; columns are those of `_LINES`
            and `epoch`. Values may be strings; empty cells leave a gap.
        path: PNG to write; it is returned.
        title: Line above the panels.

    Raises:
        ValueError: If `rows` hold none of these columns.
    """
    epochs = _series(rows, "epoch")
    if np.isnan(epochs).all():
        epochs = np.arange(len(rows), dtype=float)
    panels: dict[str, list[tuple[str, str, np.ndarray]]] = {}
    for key, (panel, label, colour) in _LINES.items():
        values = _series(rows, key)
        if np.isfinite(values).any():
            panels.setdefault(panel, []).append((label, colour, values))
    if not panels:
        raise ValueError("plot_curves found no column to draw; rows need at least one of train_loss, eval_top1 or lr")

    columns = 2 if len(panels) > 1 else 1
    lines_of_panels = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.4 * columns, 3.3 * lines_of_panels + 0.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12, wspace=0.03, hspace=0.03)
    if title:
        figure.suptitle(title, x=0.02, ha="left", fontsize=13, fontweight="bold", color=INK)
    marker = "o" if len(rows) <= 40 else None
    for index, (name, drawn) in enumerate(panels.items(), start=1):
        best = _BEST.get(name)
        axes = figure.add_subplot(lines_of_panels, columns, index)
        style_axes(axes, name)
        for label, colour, values in drawn:
            values = np.where(np.isfinite(values), values, np.nan)
            if best is not None and not label.startswith("train"):
                at = int(best(values))
                label = f"{label} (best {values[at]:.4g} at {epochs[at]:g})"
                axes.plot(epochs[at], values[at], "o", markersize=9, markerfacecolor="none", color=colour, zorder=4)
            axes.plot(epochs, values, color=colour, linewidth=1.8, marker=marker, markersize=3, label=label)
        if best is None:
            axes.set_ylim(0, 1.12 * max(np.nanmax(values) for _, _, values in drawn) or 1.0)
        if name == "Learning rate":
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            axes.legend(fontsize=8.5, frameon=False, labelcolor=INK)
        axes.set_xlabel("epoch", fontsize=9, color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.margins(x=0.02)
    return save_figure(figure, path)


def _short(name: str, width: int) -> str:
    """`name` in at most `width` characters: its first synonym where it lists several, else with the middle left out."""
    name = " ".join(str(name).split())
    if len(name) > width:
        name = name.split(",")[0]
    if len(name) > width:
        tail = max((width - 1) // 3, 1)
        name = f"{name[: width - 1 - tail].rstrip()}…{name[-tail:].lstrip()}"
    return name


def most_confused(matrix: np.ndarray, limit: int = 12) -> list[tuple[int, int, int]]:
    """The largest off-diagonal entries as (true, predicted, count); ties in class order, zeros left out."""
    off = np.array(matrix, dtype=np.int64)
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:limit]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, off.shape))]
    return [(i, j, int(off[i, j])) for i, j in pairs if off[i, j] > 0]


def _confusion_cells(axes, counts: np.ndarray, names: Sequence[str]):
    """Draw the matrix itself with ticks, names and counts that suit its size; returns the image for the colour bar."""
    n = len(counts)
    block = math.ceil(n / _MAX_CELLS)
    pad = -n % block
    shown = np.pad(counts, ((0, pad), (0, pad)))
    shown = shown.reshape(len(shown) // block, block, -1, block).sum(axis=(1, 3))
    shares = shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)
    # Errors are rare and small beside the diagonal: the square root keeps a 1 % confusion visible.
    image = axes.imshow(shares, cmap=_HEAT, norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest")
    if n <= _NAMED_CLASSES:
        size = 10 if n <= 15 else 8.5 if n <= _ANNOTATED_CLASSES else 7
        labels = [_short(name, _TICK_WIDTH) for name in names]
        axes.set_yticks(range(n), labels, fontsize=size)
        axes.set_xticks(range(n), labels, fontsize=size, rotation=0 if max(map(len, labels)) <= 4 else 90)
    else:
        ticks = [int(t) for t in MaxNLocator(nbins=10, integer=True).tick_values(0, n) if 0 <= t < n]
        places = [(t + 0.5) / block - 0.5 for t in ticks]
        axes.set_xticks(places, ticks, fontsize=9)
        axes.set_yticks(places, ticks, fontsize=9)
    if n <= _ANNOTATED_CLASSES:
        axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=GRID, linewidth=0.8)
        size = 10 if n <= 12 else 8 if n <= 20 else 7
        for i, j in zip(*np.nonzero(counts)):
            colour = "white" if shares[i, j] > 0.25 else INK
            axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=size, color=colour)
    axes.tick_params(which="both", length=0, colors=INK)
    for spine in axes.spines.values():
        spine.set_color(GRID)
    unit = "" if block == 1 else f" (a cell is {block} x {block} classes)"
    axes.set_xlabel(f"predicted{unit}", color=MUTED, labelpad=6)
    axes.set_ylabel(f"true{unit}", color=MUTED, labelpad=6)
    return image


def plot_confusion(
    matrix: Any, class_names: Sequence[str] | None, path: str | Path, title: str = "Confusion matrix"
) -> Path:
    """Draw a confusion matrix; beside it the pairs most often confused and the classes least often found.

    Cells are shares of a row (the true class), so that classes of unequal support compare. Up to 30 classes every cell
    shows its count, up to 60 every class its name; with more, ticks count classes; above 250, neighbours share a cell.

    Args:
        matrix: (N, N) counts; rows are true classes, columns predicted ones.
        class_names: N names, or None for the class indices.
        path: PNG to write; it is returned.
        title: Line above the picture.

    Raises:
        ValueError: If the matrix is not square or the number of names differs from its side.
    """
    counts = np.asarray(matrix).astype(np.int64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(f"a confusion matrix is square and not empty, got shape {tuple(counts.shape)}")
    n = len(counts)
    names = [str(name) for name in class_names] if class_names is not None else [str(i) for i in range(n)]
    if len(names) != n:
        raise ValueError(f"{len(names)} class names for a confusion matrix of {n} classes; pass {n} names or None")

    side = min(max(0.5 * n, 5.4), 9.0)  # inches, as all sizes: text does not depend on how large the matrix is
    named = 0.085 * max(len(_short(name, _TICK_WIDTH)) for name in names) if n <= _NAMED_CLASSES else 0.3
    figure = Figure(figsize=(side + named + 5.0, side + named + 1.2), layout="compressed")
    figure.suptitle(title, x=0.02, ha="left", fontsize=13, fontweight="bold", color=INK)
    parts = figure.subplot_mosaic(
        [["matrix", "text"], ["matrix", "bar"]], width_ratios=(side + named, 3.9), height_ratios=(40, 1)
    )
    image = _confusion_cells(parts["matrix"], counts, names)
    parts["text"].axis("off")
    parts["text"].text(0, 1, _confusion_text(counts, names), va="top", fontsize=9.5, color=INK, linespacing=1.5)
    bar = figure.colorbar(image, cax=parts["bar"], orientation="horizontal", ticks=[0, 0.01, 0.1, 0.25, 0.5, 1])
    bar.ax.set_xticklabels(["0", "1 %", "10 %", "25 %", "50 %", "100 %"])
    bar.ax.tick_params(length=0, labelsize=8.5, colors=MUTED)
    bar.outline.set_edgecolor(GRID)
    bar.ax.set_title("share of the true class", fontsize=9, color=MUTED, loc="left", pad=5)
    return save_figure(figure, path)


def _confusion_text(counts: np.ndarray, names: Sequence[str]) -> str:
    """What stands beside the matrix: how many are right, the pairs most often confused, the classes least found."""
    total, found, support = int(counts.sum()), np.diag(counts), counts.sum(axis=1)
    lines = [f"{found.sum():,} of {total:,} right ({100 * found.sum() / max(total, 1):.2f} %)", ""]
    pairs = most_confused(counts, 9)
    lines.append("most often confused: true → predicted" if pairs else "no image was confused")
    lines += [f"  {count:,}:  {_short(names[i], 20)} → {_short(names[j], 20)}" for i, j, count in pairs]
    recall = np.where(support > 0, found / np.maximum(support, 1), np.inf)
    hardest = [i for i in np.argsort(recall, kind="stable")[:7] if recall[i] < 1]
    if hardest:
        lines += ["", "least often found: recall of the class"]
    lines += [f"  {100 * recall[i]:.1f} %:  {_short(names[i], 26)} ({found[i]:,} of {support[i]:,})" for i in hardest]
    return "\n".join(lines)


@dataclass
class SheetItem:
    """One cell of a contact sheet: the picture, what was said of it, how surely, and the truth where it is known."""

    image: Image.Image
    label: str
    probability: float
    truth: str | None = None
    caption: str = ""


def plot_sheet(items: Sequence[SheetItem], path: str | Path, title: str = "", columns: int | None = None) -> Path:
    """Draw a contact sheet: thumbnails with the top-1 class and its probability.

    The frame and bar are green where the prediction is the known truth, red where it is not (the truth is then named),
    and blue where the truth is unknown. The bar under a picture is as long as the probability.

    Args:
        items: What to show, in reading order.
        path: PNG to write; it is returned.
        title: Line above the sheet.
        columns: Pictures in a row; by default as many as make the sheet about 3:2.

    Raises:
        ValueError: If there are no items.
    """
    if not items:
        raise ValueError("a contact sheet needs at least one picture")
    columns = columns or min(len(items), max(4, round(math.sqrt(len(items) * 1.7))))
    rows = math.ceil(len(items) / columns)
    known = [item for item in items if item.truth is not None]
    right = sum(item.truth == item.label for item in known)
    title = title or "Predictions"
    title += f": {right} of {len(known)} right" if known else ""
    size = (max(1.61 * columns, 0.12 * len(title), 3.0), 2.07 * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold", color=INK)
    cells = figure.subplots(rows, columns, squeeze=False).flat
    for item, axes in itertools.zip_longest(items, cells):
        if item is None:  # the rest of the last row
            axes.axis("off")
        else:
            _draw_item(axes, item)
    return save_figure(figure, path)


def _draw_item(axes: Axes, item: SheetItem) -> None:
    """A picture in a frame, with a bar, the prediction and a line of small print under it."""
    wrong = item.truth is not None and item.truth != item.label
    colour = BLUE if item.truth is None else RED if wrong else GREEN
    # Tiny pictures (8 x 8 digits) read better smoothed than as blocks.
    picture = ImageOps.pad(item.image.convert("RGB"), (280, 280), Image.Resampling.BICUBIC, color="#f3f5f7")
    axes.imshow(np.asarray(picture))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(1.6)
    for end, shade in ((1.0, GRID), (item.probability if math.isfinite(item.probability) else 0.0, colour)):
        line = {"linewidth": 5, "solid_capstyle": "butt", "clip_on": False}
        axes.plot((0, end), (-0.05, -0.05), color=shade, transform=axes.transAxes, **line)
    percent = f"{100 * item.probability:.0f} %" if not item.probability < 0.005 else "<1 %"
    label = _short(item.label, 15 if len(percent) < 5 else 14)
    under = f"true: {_short(item.truth, 18)}" if wrong else _short(item.caption, 24)
    below = {"transform": axes.transAxes, "va": "top"}
    ink = INK if item.truth is None else colour
    axes.text(0, -0.09, label, fontsize=9, fontweight="bold", color=ink, **below)
    axes.text(1, -0.09, percent, fontsize=8, ha="right", color=MUTED, **below)
    axes.text(0, -0.21, under, fontsize=7.5, color=MUTED, **below)
