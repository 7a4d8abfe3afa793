"""The demo configs read the scenes as they were written, and train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from backbones.dense import scenes
from backbones.dense.config import load_config
from backbones.dense.config_table import CONFIGS
from backbones.dense.costs import build_model
from backbones.dense.data_check import check

DEMOS = {task: CONFIGS / task / "demo.py" for task in ("detection", "segmentation")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "scenes"
    scenes.make_scenes(path, scenes.Settings(train=2, val=1))
    return path


def _config(task: str, folder: Path) -> Config:
    cfg = load_config(DEMOS[task], data_root=f"{folder}/")
    check(cfg, ["train", "val", "test"])
    return cfg


def _read(cfg: Config, split: str) -> list[dict]:
    with DATASETS.switch_scope_and_registry(scope=cfg.default_scope) as registry:
        dataset = registry.build(cfg[f"{split}_dataloader"].dataset)
        return [dataset[i] for i in range(len(dataset))]


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_both_demos_read_what_was_written(folder, split):
    detection, segmentation = (_read(_config(task, folder), split) for task in DEMOS)
    assert len(detection) == len(segmentation) == {"train": 2, "val": 1}[split]
    for found, mapped in zip(detection, segmentation):
        path = Path(mapped["data_samples"].seg_map_path)
        written = np.asarray(Image.open(path)).astype(int)
        labels = mapped["data_samples"].gt_sem_seg.data[0].numpy()
        assert (labels == written - 1).all()
        instances = found["data_samples"].gt_instances
        drawn = np.full(labels.shape, len(scenes.CLASSES))
        for mask, label, box in zip(instances.masks.to_ndarray(), instances.labels, instances.bboxes.tensor):
            mask = mask.astype(bool)
            drawn[mask] = label
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert (drawn == labels).all()
        assert torch.equal(found["inputs"], mapped["inputs"])


# Losses that fall from the first step on; those of the regions' boxes rise until there are regions to refine.
@pytest.mark.parametrize(
    ("task", "falling"), [("detection", ("loss_rpn_cls", "loss_mask")), ("segmentation", ("decode.loss_ce",))]
)
def test_the_demos_models_learn_a_scene(folder, task, falling):
    torch.manual_seed(0)
    cfg = _config(task, folder)
    init_default_scope(cfg.default_scope)
    model = build_model(cfg)
    model.init_weights()
    model.train()
    samples = _read(cfg, "train")
    batch = {key: [sample[key] for sample in samples] for key in samples[0]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.optim_wrapper.optimizer.lr)
    logs = []
    for _ in range(8):
        data = model.data_preprocessor(batch, training=True)
        loss, parts = model.parse_losses(model(**data, mode="loss"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logs.append({key: value.item() for key, value in parts.items()})
    assert all(np.isfinite(list(log.values())).all() for log in logs)
    for key in falling:
        assert logs[-1][key] < 0.97 * logs[0][key]
