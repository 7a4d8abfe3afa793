"""Pictures of a benchmark: throughput against resolution, and accuracy against throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from backbones.figures import BLUE, INK, MUTED, ORANGE, save_figure, style_axes


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    return figure, figure.add_subplot()


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
    for name, (speed, top1) in points.items():
        axes.plot(speed, top1, "o", color=ORANGE if name in front else BLUE, markersize=6)
        axes.annotate(name, (speed, top1), xytext=(5, 4), textcoords="offset points", fontsize=8, color=INK)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.08)
    axes.set_xlabel("images/s", fontsize=9, color=MUTED)
    axes.set_ylabel("published top-1 (%)", fontsize=9, color=MUTED)
    return save_figure(figure, path)
