"""The dense-prediction side: multi-scale features of any model, in the form that detectors and segmentors take."""

from backbones.dense.backbone import DenseBackbone

__all__ = ["DenseBackbone"]
