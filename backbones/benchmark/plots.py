"""Pictures of a benchmark: throughput against resolution, and accuracy against throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator, ScalarFormatter
from matplotlib.transforms import Bbox

from backbones.utils.figures import BLUE, INK, MUTED, ORANGE, save_figure, style_axes


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    return figure, figure.add_subplot()


def _plain_numbers(axis: Axis) -> None:
    """Ticks at 1, 2, 5, 10, ... of a logarithmic axis, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def plot_resolution(rows: Sequence[Mapping[str, Any]], path: str | Path, title: str) -> Path:
    """Throughput against image side, log-log, one line a model; a model of linear cost falls by four when sides double.

    Args:
        rows: Results with `model`, `size` ("HxW") and `img_per_s`, of one task.
        path: PNG to write.
        title: Line above.
    """
    figure, axes = _figure()
    style_axes(axes, title)
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        height, width = map(int, row["size"].split("x"))
        lines.setdefault(row["model"], []).append(((height * width) ** 0.5, row["img_per_s"]))
    for number, (name, points) in enumerate(sorted(lines.items(), key=lambda item: -max(item[1])[1])):
        sides, speeds = zip(*sorted(points))
        style = ("-", "--", "-.", ":")[number // 10 % 4]
        axes.plot(sides, speeds, style, color=f"C{number % 10}", marker="o", markersize=4, linewidth=1.8, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sides = sorted({side for points in lines.values() for side, _ in points})
    axes.set_xticks(sides)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    _plain_numbers(axes.yaxis)
    axes.set_xlabel("image side (pixels)", fontsize=9, color=MUTED)
    axes.set_ylabel("images/s", fontsize=9, color=MUTED)
    axes.legend(fontsize=8.5, frameon=False, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save_figure(figure, path)


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points `(images/s, top-1)` that none beats in both, the fastest first."""
    front: list[str] = []
    best = float("-inf")
    for name, (_, top1) in sorted(points.items(), key=lambda item: (-item[1][0], -item[1][1])):
        if top1 > best:
            front.append(name)
            best = top1
    return front


def plot_pareto(points: Mapping[str, tuple[float, float]], path: str | Path, title: str) -> Path:
    """Published top-1 against measured images/s, with the line of models that none beats in both.

    Args:
        points: `(images/s, top-1 in percent)` by name.
        path: PNG to write.
        title: Line above.
    """
    figure, axes = _figure()
    style_axes(axes, title)
    front = pareto(points)
    axes.plot(*zip(*(points[name] for name in front)), color=ORANGE, linewidth=1.4, zorder=1)
    for name, point in points.items():
        axes.plot(*point, "o", color=ORANGE if name in front else BLUE, markersize=6)
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis)
    axes.margins(x=0.12, y=0.08)
    axes.set_xlabel("images/s", fontsize=9, color=MUTED)
    axes.set_ylabel("published top-1 (%)", fontsize=9, color=MUTED)
    _label(figure, axes, points)
    return save_figure(figure, path)


def _label(figure: Figure, axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Name every point beside it, on the first side where the name covers nothing else."""
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    taken = [Bbox.from_extents(*(at - 6), *(at + 6)) for at in axes.transData.transform(list(points.values()))]
    for name, point in sorted(points.items(), key=lambda item: -item[1][1]):
        for last, (x, y) in enumerate(((6, 4), (-6, 4), (6, -11), (-6, -11)), start=-3):
            text = axes.annotate(
                name,
                point,
                xytext=(x, y),
                textcoords="offset points",
                ha="left" if x > 0 else "right",
                fontsize=8,
                color=INK,
            )
            box = text.get_window_extent()
            free = frame.x0 <= box.x0 and box.x1 <= frame.x1 and not any(box.overlaps(other) for other in taken)
            if free or last == 0:
                taken.append(box)
                break
            text.remove()
