"""What of detectors and segmentors goes into a graph."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.dense.config import load_config
from backbones.dense.errors import DenseError
from backbones.dense.runner import build_model, without_starting_weights
from backbones.export.graphs import ExportError


class SegmentorGraph(nn.Module):
    """A segmentor of mmseg: images `(B, C, H, W)` to logits `(B, classes, H, W)`, resized to the image."""

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, x: Tensor) -> Tensor:
        segmentor = self.segmentor
        logits = segmentor.decode_head(segmentor.extract_feat(x))
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=segmentor.align_corners)


class DetectorGraph(nn.Module):
    """A detector of mmdet: images `(B, C, H, W)` to the maps of its dense head, level by level.

    Of one-stage detectors these are scores and boxes of all anchors or points; of two-stage ones the neck's maps, then
    the proposal head's. Choosing among them, and the second stage, depend on the values and stay outside.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> Any:
        maps = self.detector.extract_feat(x)
        if getattr(self.detector, "rpn_head", None) is not None:
            return tuple(maps), self.detector.rpn_head(maps)
        return self.detector.bbox_head(maps)


def load_graph(config: str, checkpoint: str | None) -> tuple[nn.Module, dict[str, Any]]:
    """What of a config's model is exported, in evaluation mode on the CPU, and its preprocessing.

    Raises:
        ExportError: The model cannot be built, or its head needs more than maps.
        WeightsError: The checkpoint cannot be read, or is another model's.
    """
    try:
        cfg = without_starting_weights(load_config(config))
        model = build_model(cfg, checkpoint, "cpu")
    except DenseError as error:
        raise ExportError(str(error)) from error
    preprocessor = model.data_preprocessor
    about = {
        "mean": [value / 255 for value in preprocessor.mean.flatten().tolist()],
        "std": [value / 255 for value in preprocessor.std.flatten().tolist()],
        "size_divisor": getattr(preprocessor, "pad_size_divisor", None) or 1,
        "class_names": list((getattr(model, "dataset_meta", None) or {}).get("classes") or ()),
    }
    if cfg.default_scope == "mmseg" and not hasattr(model.decode_head, "query_embed"):
        return SegmentorGraph(model), about
    if getattr(model, "rpn_head", None) is not None or hasattr(getattr(model, "bbox_head", None), "prior_generator"):
        return DetectorGraph(model), about
    name = type(getattr(model, "decode_head", None) or model).__name__
    raise ExportError(
        f"{config}: {name} decodes queries with what belongs to each image, and has no graph of maps alone."
    )
