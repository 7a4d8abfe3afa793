"""Pictures of the results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from backbones.gpu.results import Setting
from backbones.utils.figures import BLUE, INK, MUTED, ORANGE, save_figure, style_axes


def picture_path(setting: Setting, title: str) -> Path:
    """Where a part keeps the picture of this title."""
    return setting.folder / f"{title.replace(', ', '-').replace(' ', '-')}.png"


def plot_ratios(values: Mapping[str, float], targets: Mapping[str, float], path: Path, title: str) -> Path:
    """Bars, one a name, the largest on top, with a mark at every target.

    Args:
        values: By name.
        targets: Those there are, by name.
        path: PNG to write.
        title: Line above.
    """
    names = sorted(values, key=values.__getitem__)
    figure = Figure(figsize=(8.0, 0.9 + 0.36 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, title)
    axes.barh(names, [values[name] for name in names], color=BLUE, height=0.6)
    for row, name in enumerate(names):
        axes.annotate(
            f"{values[name]:.2f}",
            (values[name], row),
            (4, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=9,
        )
        if name in targets:
            axes.plot([targets[name]] * 2, [row - 0.38, row + 0.38], color=ORANGE, linewidth=2)
    axes.margins(x=0.1)
    return save_figure(figure, path)


def plot_kernels(shares: Mapping[str, float], path: Path, title: str) -> Path:
    """Kernels by their share of a step's time, the largest on top.

    Args:
        shares: Percent by kernel.
        path: PNG to write.
        title: Line above.
    """
    names = sorted(shares, key=shares.__getitem__)
    figure = Figure(figsize=(9.0, 0.9 + 0.3 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, title)
    axes.barh(
        [name if len(name) <= 60 else f"{name[:57]}..." for name in names],
        [shares[name] for name in names],
        color=BLUE,
        height=0.6,
    )
    axes.set_xlabel("% of the time of kernels", fontsize=9, color=MUTED)
    return save_figure(figure, path)
