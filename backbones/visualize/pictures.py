"""Heat maps on images: single pictures, and sheets of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from backbones.utils.figures import INK, ORANGE, save_figure

OVERLAY = 0.65  # how much of the picture under it a heat map covers
SIDE, COLUMNS = 2.2, 7  # of a panel on a sheet, inches; panels beside each other


@dataclass
class Panel:
    """One picture.

    Attributes:
        name: Of its file, without suffix.
        title: What it shows.
        image: `(H, W, 3)` in 0..1; None where heat stands alone.
        heat: `(h, w)`, drawn over the image; or colours `(h, w, 3)`, drawn in its place.
        point: Column and row of the query in pixels of the image.
        signed: Heat has a sign: its colours are symmetric about zero.
        smooth: Interpolate between positions.
    """

    name: str
    title: str
    image: np.ndarray | None = None
    heat: Tensor | None = None
    point: tuple[float, float] | None = None
    signed: bool = False
    smooth: bool = False

    def draw(self, axes: Axes, title_size: float, title_width: int) -> None:
        """Draw it into axes, without ticks; lines of the title have `title_width` letters at most."""
        heat = None if self.heat is None else self.heat.detach().float().cpu().numpy()
        colours = heat is not None and heat.ndim == 3
        height, width = (self.image if self.image is not None else heat).shape[:2]
        extent = (0, width, height, 0)
        how = "bilinear" if self.smooth else "nearest"
        if self.image is not None and not colours:
            axes.imshow(self.image, extent=extent)
        if colours:
            axes.imshow(heat, extent=extent, interpolation=how)
        elif heat is not None:
            most = float(np.abs(heat).max()) or 1.0
            look = {"cmap": "RdBu_r", "vmin": -most} if self.signed else {"cmap": "inferno", "vmin": 0.0}
            axes.imshow(
                heat,
                extent=extent,
                interpolation=how,
                alpha=OVERLAY if self.image is not None else None,
                vmax=most,
                **look,
            )
        if self.point is not None:
            axes.plot(*self.point, marker="o", markersize=7, markerfacecolor="white", markeredgecolor=ORANGE, mew=2)
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        lines = [part for line in self.title.splitlines() for part in textwrap.wrap(line, title_width)[:2]]
        axes.set_title("\n".join(lines), fontsize=title_size, color=INK, loc="left")
        for spine in axes.spines.values():
            spine.set_visible(False)


def save_panel(panel: Panel, path: str | Path) -> Path:
    """Write one panel as a PNG."""
    figure = Figure(figsize=(4.5, 4.8), layout="constrained")
    panel.draw(figure.subplots(), 10, 52)
    return save_figure(figure, path)


def save_sheet(groups: Sequence[Sequence[Panel]], path: str | Path, title: str) -> Path:
    """Write groups of panels as one PNG; each begins a row."""
    rows = [group[i : i + COLUMNS] for group in groups for i in range(0, len(group), COLUMNS)]
    columns = max(map(len, rows))
    figure = Figure(figsize=(SIDE * columns, 1.25 * SIDE * len(rows) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold", color=INK, x=0.01, ha="left")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for places, row in zip(grid, rows):
        for axes in places[len(row) :]:
            axes.set_axis_off()
        for axes, panel in zip(places, row):
            panel.draw(axes, 7, 36)
    return save_figure(figure, path)
