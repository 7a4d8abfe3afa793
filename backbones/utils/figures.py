"""The look of this package's pictures, and writing them whole."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from backbones.utils.files import replacing

INK, MUTED, GRID = "#1f2933", "#6b7785", "#e3e7ec"
BLUE, ORANGE, GREEN, RED, PURPLE = "#2563a8", "#e07b1a", "#2c8a4b", "#c8352b", "#7a4fa3"


def save_figure(figure: Figure, path: str | Path, dpi: int = 130) -> Path:
    """Write `figure` beside `path` and rename it over."""
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=dpi, facecolor="white")
    return Path(path)


def style_axes(axes, title: str) -> None:
    """Light grid, no frame, the title at the left."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=8)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
