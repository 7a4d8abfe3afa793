"""Looking at runs and data: curves of a work folder, and pictures of what the data pipeline feeds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import DATASETS

from backbones.dense.config import datasets
from backbones.dense.errors import DenseError
from backbones.dense.loading import name_files
from backbones.dense.predict import draw_sample, make_visualizer
from backbones.utils.figures import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, RED, save_figure, style_axes

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED)
#: Panels of metrics in drawing order: title, keys. Classes' own values (`AP_50`, `IoU.wall`) are left to the logs.
_METRICS = (
    ("Box AP", r"coco/bbox_mAP(_50|_75)?$"),
    ("Mask AP", r"coco/segm_mAP(_50|_75)?$"),
    ("Panoptic quality", r".*\b(PQ|SQ|RQ)$"),
    ("Segmentation (%)", r"(mIoU|mAcc|aAcc|mDice)$"),
)
_OTHER = ("time", "data_time", "memory", "epoch", "iter", "step", "lr", "base_lr", "grad_norm")


def read_scalars(work_dir: str | Path) -> list[dict[str, float]]:
    """What a run logged, in the order of its steps; where a resumed run repeats a step, the later value counts.

    Raises:
        DenseError: The folder holds no logs.
    """
    work_dir = Path(work_dir)
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    if not files:
        raise DenseError(f"{work_dir} holds no run (no */vis_data/scalars.json): name the work folder of a training.")
    rows: dict[tuple[bool, float], dict[str, float]] = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the last line of a run that was killed
                continue
            if "step" in row:
                rows[("loss" in row, row["step"])] = row
    if not any(training for training, _ in rows):
        raise DenseError(f"{work_dir} holds no training: its logs have no loss.")
    return [row for _, row in sorted(rows.items(), key=lambda item: item[0][1])]


def curves(rows: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, dict[str, list[tuple[float, float]]]]]:
    """The panels of a run: titles, each with its lines as `(step, value)`."""
    training = [row for row in rows if "loss" in row]
    names = [key for row in training for key in row if key == "loss" or re.search(r"loss(?!.*acc)", key)]
    losses = ["loss", *sorted({name for name in names if name != "loss"})]
    parts = [name for name in losses if any(name in row for row in training)]
    yield "Loss", {name: _line(training, name) for name in parts}
    yield "Learning rate", {"lr": _line(training, "lr")}
    tests = [row for row in rows if "loss" not in row]
    # mmengine counts the steps of evaluations in epochs where the training does.
    per_epoch = _steps_per_epoch(training, tests)
    tests = [{**row, "step": row["step"] * per_epoch} for row in tests]
    for title, pattern in _METRICS:
        keys = sorted({key for row in tests for key in row if re.match(pattern, key)}, key=lambda key: (len(key), key))
        if keys:
            yield title, {key.rpartition("/")[2]: _line(tests, key) for key in keys}


def _steps_per_epoch(training: Sequence[Mapping[str, float]], tests: Sequence[Mapping[str, float]]) -> float:
    last = training[-1]
    if "epoch" not in last or not tests or max(row["step"] for row in tests) > last["epoch"]:
        return 1.0
    return last["step"] / last["epoch"]


def _line(rows: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    return [
        (row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])
    ]


def plot_run(work_dir: str | Path, path: str | Path | None = None) -> Path:
    """Draw the loss and metric curves of a work folder.

    Args:
        work_dir: Where a training of mmengine's runner went.
        path: PNG to write; `curves.png` in the folder by default.

    Raises:
        DenseError: The folder holds no training.
    """
    work_dir = Path(work_dir)
    panels = [(title, {k: v for k, v in lines.items() if v}) for title, lines in curves(read_scalars(work_dir))]
    panels = [panel for panel in panels if panel[1]]
    columns = min(2, len(panels))
    height = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.6 * columns, 3.4 * height + 0.4), layout="constrained")
    figure.suptitle(work_dir.resolve().name, x=0.02, ha="left", fontsize=13, fontweight="bold", color=INK)
    end = max(step for _, lines in panels for points in lines.values() for step, _ in points)
    for index, (title, lines) in enumerate(panels, start=1):
        axes = figure.add_subplot(height, columns, index)
        style_axes(axes, title)
        for number, (name, points) in enumerate(lines.items()):
            steps, values = zip(*points)
            metric = title not in ("Loss", "Learning rate")
            label = f"{name} (last {values[-1]:.4g})" if metric else name
            style = {"linewidth": 2.0 if number == 0 else 1.1, "marker": "o" if metric else None, "markersize": 3}
            colour = _COLOURS[number] if number < len(_COLOURS) else f"C{number}"
            axes.plot(steps, values, color=colour, label=label, **style)
        axes.set_xlim(0, 1.02 * end)
        axes.set_ylim(bottom=0)
        if len(lines) > 1 or title in ("Loss",) or metric:
            axes.legend(fontsize=8, frameon=False, labelcolor=INK)
        axes.set_xlabel("iteration", fontsize=9, color=MUTED)
    return save_figure(figure, path or work_dir / "curves.png")


def browse(cfg: Config, folder: str | Path, number: int = 8, split: str = "train") -> list[Path]:
    """Write pictures of what the data pipeline feeds: images as the model gets them, with their annotations drawn in.

    Args:
        cfg: A checked config.
        folder: Where `<number>_<name of the image>.png` go.
        number: How many, spread over the data.
        split: Whose pipeline: train, val or test.

    Raises:
        DenseError: The config has no such data, or they are empty.
    """
    options = next((dataset for _, dataset in datasets(cfg, [split])), None)
    if options is None:
        raise DenseError(f"The config has no {split}_dataloader.")
    with DATASETS.switch_scope_and_registry(scope=cfg.default_scope) as registry:
        data = registry.build(options)
        name_files(data)
        if not len(data):
            raise DenseError(f"The {split} data are empty, or all of them are filtered out.")
        visualizer = make_visualizer(cfg, data.metainfo)
        written = []
        for index in range(0, len(data), max(len(data) // number, 1))[:number]:
            item = data[index]
            sample = item["data_samples"]
            image = item["inputs"].permute(1, 2, 0).numpy()
            if "gt_instances" in sample and hasattr(sample.gt_instances.bboxes, "tensor"):
                sample.gt_instances.bboxes = sample.gt_instances.bboxes.tensor
            image = image[..., ::-1] if cfg.model.data_preprocessor.get("bgr_to_rgb") else image
            name = Path(getattr(sample, "img_path", str(index))).stem
            written.append(Path(folder) / f"{len(written):03d}_{name}.png")
            draw_sample(visualizer, image.copy(), sample, written[-1], draw_pred=False)
    return written
