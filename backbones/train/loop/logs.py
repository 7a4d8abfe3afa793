"""What a run writes for people: TensorBoard events, Weights & Biases, and the table and curves of its epochs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backbones.train.options import TrainOptions
from backbones.utils.files import write_csv

#: Drawing takes a second or so: with shorter epochs, the curves are drawn no more often than this.
_PLOT_SECONDS = 15.0


class Logs:
    """The logs in a run's folder; rank 0 writes them.

    Args:
        path: The run folder.
        options: Resolved options.
        updates: Optimiser steps done before this start.
        title: Line above the curves.
    """

    def __init__(self, path: Path, options: TrainOptions, updates: int, title: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path, self.title, self.next_plot = path, title, 0.0
        # Events that a killed start wrote after its last checkpoint are dropped; purge_step itself is dropped too.
        self.board = SummaryWriter(str(path / "tensorboard"), purge_step=updates + 1)
        self.wandb = self._wandb(options) if options.log_wandb else None

    def _wandb(self, options: TrainOptions):
        """The run at Weights & Biases, which goes on under the same name when this one is resumed."""
        import wandb

        identity = self.path / "wandb.id"
        if not identity.exists():
            identity.write_text(uuid.uuid4().hex, encoding="utf-8")
        return wandb.init(
            project=options.wandb_project or self.path.name,
            tags=list(options.wandb_tags) or None,
            config=options.values(),
            dir=str(self.path),
            id=identity.read_text(encoding="utf-8"),
            resume="allow",
        )

    def interval(self, figures: Mapping[str, float], updates: int) -> None:
        """The figures of a log interval."""
        for name, value in figures.items():
            self.board.add_scalar(f"train/{name}", value, updates)

    def epoch(self, row: Mapping[str, Any], updates: int) -> None:
        """The row of an epoch."""
        figures = {_tag(key): row[key] for key in row if key not in ("epoch", "updates") and row[key] != ""}
        for tag, value in figures.items():
            self.board.add_scalar(tag, value, updates)
        if self.wandb is not None:
            self.wandb.log({**figures, "epoch": row["epoch"]}, step=updates)

    def table(self, rows: Sequence[Mapping[str, Any]], final: bool = False) -> None:
        """Writes summary.csv and, now and then and at the end, curves.png."""
        from backbones.train.evaluation.plots import plot_curves

        write_csv(self.path / "summary.csv", rows)
        if rows and (final or time.monotonic() >= self.next_plot):
            self.next_plot = time.monotonic() + _PLOT_SECONDS
            plot_curves(rows, self.path / "curves.png", self.title)

    def close(self) -> None:
        """Ends the logs."""
        self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def _tag(column: str) -> str:
    """TensorBoard's tag of a column of the summary; ``train/`` itself holds the values of log intervals."""
    group, _, name = column.partition("_")
    return f"eval/{name}" if group == "eval" else f"train_epoch/{column.removeprefix('train_')}"
