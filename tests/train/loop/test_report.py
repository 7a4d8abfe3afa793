"""The costs of a model."""

from __future__ import annotations

import timm
import torch

from backbones.train.loop.report import benchmark
from backbones.utils.files import write_csv


def test_benchmark_row(tmp_path):
    model = timm.create_model("test_vit", num_classes=10)
    row = benchmark(model, torch.zeros(4, 3, 160, 160), 12.345, {"model": "test_vit"})
    assert row["infer_img_per_s"] > 0 and row["train_img_per_s"] == 12.3 and row["train_peak_memory_mb"] > 10
    assert row["params_m"] == round(sum(p.numel() for p in model.parameters()) / 1e6, 4)
    write_csv(tmp_path / "b.csv", [row, {"model": "other", "new": 1}])
    lines = (tmp_path / "b.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("model,img_size") and lines[0].endswith(",new")
