"""One HTML file with an image, in which a click moves the query of heat maps that were computed before."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backbones.utils.files import write_text
from backbones.visualize.attention import LayerAttention
from backbones.visualize.features import similarity

QUERIES = 14  # a side at most
CELLS = 28  # positions a side of a heat map at most; finer ones are averaged


@dataclass
class View:
    """Heat maps of one kind, for every query.

    Attributes:
        name: What they show.
        queries: Rows and columns of the queries, which tile the image.
        heats: `(rows * columns, h, w)` in 0..1, each divided by its largest.
    """

    name: str
    queries: tuple[int, int]
    heats: Tensor


def _view(name: str, size: Sequence[int], heat_of: Callable[[int, int], Tensor]) -> list[View]:
    """Views of a map of `size`; `heat_of(y, x)` is `(views, H, W)`."""
    rows, columns = (min(side, QUERIES) for side in size)
    cells = tuple(min(side, CELLS) for side in size)
    places = [
        ((2 * i + 1) * size[0] // (2 * rows), (2 * j + 1) * size[1] // (2 * columns))
        for i in range(rows)
        for j in range(columns)
    ]
    heats = torch.stack([F.adaptive_avg_pool2d(heat_of(y, x).clamp(min=0), cells) for y, x in places], dim=1)
    heats = heats / heats.amax((2, 3), keepdim=True).clamp(min=1e-12)
    return [View(name.format(i), (rows, columns), heat.cpu()) for i, heat in enumerate(heats)]


def attention_views(label: str, attention: LayerAttention, heads: Sequence[int], image: int = 0) -> list[View]:
    """Views of a layer: the mean of its heads in magnitude, and single heads without their negative weights."""

    def heat_of(y: int, x: int) -> Tensor:
        weights = attention.at(y, x, image)
        return torch.cat([weights.abs().mean(0, keepdim=True), weights[list(heads)]])

    views = _view("{}", attention.size, heat_of)
    for view, name in zip(views, ["mean of heads", *(f"head {head}" for head in heads)]):
        view.name = f"{label}: {name}"
    return views


def similarity_view(label: str, features: Tensor) -> View:
    """The view of similarities of a stage's features `(1, C, H, W)`; negative ones are left out."""
    (view,) = _view(label, features.shape[2:], lambda y, x: similarity(features, y, x))
    return view


def write_page(path: str | Path, title: str, image: np.ndarray, views: Sequence[View]) -> Path:
    """Write the page.

    Args:
        path: Of the file.
        title: Its heading.
        image: `(H, W, 3)` in 0..1.
        views: What can be chosen; the first is shown.
    """
    picture = io.BytesIO()
    Image.fromarray((image * 255).round().astype(np.uint8)).save(picture, "PNG")
    data = {
        "width": image.shape[1],
        "height": image.shape[0],
        "image": base64.b64encode(picture.getvalue()).decode(),
        "colours": (matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).astype(int).tolist(),
        "views": [
            {
                "name": view.name,
                "queries": view.queries,
                "cells": view.heats.shape[1:],
                "heats": base64.b64encode((view.heats * 255).round().byte().numpy().tobytes()).decode(),
            }
            for view in views
        ],
    }
    # "</" would end the script in the middle of a name.
    text = json.dumps(data).replace("</", "<\\/")
    return write_text(path, PAGE.replace("{title}", html.escape(title)).replace("{data}", text))


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body { font: 16px/1.4 system-ui, sans-serif; color: #1f2933; margin: 1rem auto; max-width: 44rem; padding: 0 1rem; }
h1 { font-size: 1.2rem; }
canvas { width: 100%; height: auto; cursor: crosshair; touch-action: manipulation; }
select, input { font: inherit; max-width: 100%; }
label { margin-right: 1rem; }
</style>
</head>
<body>
<h1>{title}</h1>
<p>
<label>Show <select id="view"></select></label>
<label>over the image <input id="opacity" type="range" min="0" max="100" value="65"></label>
</p>
<canvas id="canvas" tabindex="0" aria-label="Image with a heat map"></canvas>
<p id="status" role="status"></p>
<p>Click on the image, or use the arrow keys, to move the query. Each heat map is divided by its largest value.</p>
<script type="application/json" id="data">{data}</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const [canvas, choice, opacity, told] = ["canvas", "view", "opacity", "status"].map(id => document.getElementById(id));
const context = canvas.getContext("2d"), picture = new Image();
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
for (const view of data.views) choice.add(new Option(view.name));
canvas.width = data.width; canvas.height = data.height;
let point = [data.width / 2, data.height / 2];

function draw() {
  const view = data.views[choice.selectedIndex], [rows, columns] = view.queries, [height, width] = view.cells;
  view.bytes ??= bytes(view.heats);
  const row = Math.min(Math.floor(point[1] / data.height * rows), rows - 1);
  const column = Math.min(Math.floor(point[0] / data.width * columns), columns - 1);
  const start = (row * columns + column) * height * width, heat = document.createElement("canvas");
  heat.width = width; heat.height = height;
  const pixels = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) pixels.data.set([...data.colours[view.bytes[start + i]], 255], 4 * i);
  heat.getContext("2d").putImageData(pixels, 0, 0);
  context.globalAlpha = 1;
  context.drawImage(picture, 0, 0);
  context.globalAlpha = opacity.value / 100;
  context.imageSmoothingEnabled = false;
  context.drawImage(heat, 0, 0, data.width, data.height);
  context.globalAlpha = 1;
  context.beginPath();
  context.arc((column + 0.5) * data.width / columns, (row + 0.5) * data.height / rows, data.width / 60, 0, 7);
  context.fillStyle = "white"; context.fill();
  context.strokeStyle = "#e07b1a"; context.lineWidth = data.width / 150; context.stroke();
  told.textContent = `Query in row ${row} of ${rows}, column ${column} of ${columns}`;
}

canvas.addEventListener("click", event => {
  const box = canvas.getBoundingClientRect();
  point = [(event.clientX - box.left) / box.width * data.width, (event.clientY - box.top) / box.height * data.height];
  draw();
});
canvas.addEventListener("keydown", event => {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (!step) return;
  event.preventDefault();
  const [rows, columns] = data.views[choice.selectedIndex].queries;
  point = point.map((value, i) => {
    const side = [data.width, data.height][i];
    return Math.min(Math.max(value + step[i] * side / [columns, rows][i], 0), side - 1);
  });
  draw();
});
choice.addEventListener("change", draw);
opacity.addEventListener("input", draw);
picture.onload = draw;
picture.src = "data:image/png;base64," + data.image;
</script>
</body>
</html>
"""
